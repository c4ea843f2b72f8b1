package servo

import (
	"math"
	"math/rand/v2"
	"testing"
)

// kernelClock works slews off as second_overflow does, in steps of a millisecond.
type kernelClock struct {
	millis        int
	offset, delta float64 // s: left of a slew; that this second makes up for
	part          float64
	freq, done    float64
}

func (k *kernelClock) millisecond() {
	if k.millis%1000 == 0 {
		k.delta = k.offset * k.part
		k.offset -= k.delta
	}
	k.done += (k.delta + k.freq) / 1000
	k.millis++
}

// TestCourseIsTheKernels: slews that follow each other at any part of a second,
// frequencies and steps add up to what the kernel makes of them.
func TestCourseIsTheKernels(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		k, s := &kernelClock{}, New(0, UnknownFreq, 0)
		for range 20 {
			if k.millis%1000 == 0 { // at the turn itself it is open to which second a slew is given
				k.millisecond()
			}
			at := float64(k.millis) / 1000
			slew, freq, constant := r.NormFloat64(), 1e-4*r.NormFloat64(), r.IntN(5)
			if r.IntN(4) == 0 { // ADJ_SETOFFSET clears the rest of a slew
				s.Step(1)
				k.offset, k.delta = 0, 0
			}
			s.Steer(seconds(at), Slew{slew, seconds(math.Floor(at) + 1), constant}, freq)
			k.offset, k.freq, k.part = slew, freq, math.Exp2(-float64(2+constant))
			for range 1 + r.IntN(40000) {
				k.millisecond()
			}
			at = float64(k.millis) / 1000
			if got := s.course.ahead(at); math.Abs(got-k.done) > 1e-9 {
				t.Fatalf("seed %d, at %.3f s: %.9f s, the kernel made %.9f s", seed, at, got, k.done)
			}
			if got, want := s.course.coming(at, math.Floor(at)+1), k.delta*(math.Floor(at)+1-at); k.millis%1000 != 0 && math.Abs(got-want) > 1e-9 {
				t.Fatalf("seed %d, at %.3f s: %.9f s are to come in this second, in the kernel %.9f s", seed, at, got, want)
			}
		}
	}
}
