package servo

import (
	"math"
	"net/netip"
	"slices"
)

const (
	granularity = 1e-6 // s: no reading is better than that
	maxDelays   = 256  // kept of a server: the least of so many is within a few percent of the least there is
)

// way is what is known of the way to a server.
type way struct {
	server netip.AddrPort
	tilt   *tilt
	trip   float64   // s: the first delay, or that of the way in the middle then
	delays []float64 // s, the last ones
	sorted []float64
	heard  float64 // s, monotonic: when last
}

// learn takes a delay in.
func (w *way) learn(delay, at float64) {
	if w.delays = append(w.delays, max(delay, 0)); len(w.delays) > maxDelays {
		w.delays = slices.Delete(w.delays, 0, 1)
	}
	w.heard, w.sorted = at, slices.Sorted(slices.Values(w.delays))
}

// asymmetry is the deviation of what the two directions differ by, as long as
// nothing else is known.
func (w *way) asymmetry() float64 { return max(biasShare*w.trip, granularity) }

func (w *way) least() float64   { return w.sorted[0] }
func (w *way) typical() float64 { return w.quantile(1, 2) }

func (w *way) quantile(of, in int) float64 { return w.sorted[len(w.sorted)*of/in] }

// noise says how precise a reading with a delay is: by how much the delay shifted
// its offset, and the standard deviation of what is left, in s.
type noise func(w *way, delay float64) (shift, sigma float64)

// byExcess: queues make a packet late and never early. What a delay exceeds the
// least by was lost on the one way or on the other, so the error is anywhere
// between minus and plus half of it, and its deviation a root of a twelfth. The
// least of few delays is not the least there is.
func byExcess(w *way, delay float64) (shift, sigma float64) {
	n := float64(len(w.delays))
	unsure := max(w.typical()-w.least(), w.least()/2/n) / math.Sqrt(n)
	return 0, math.Hypot(granularity, (max(delay-w.least(), 0)+unsure)/math.Sqrt(12))
}

// bySpread: both ways vary independently about their mean, so one reading is as
// good as another, and the error is half of what the sum varies by. The
// interquartile range of a normal distribution is 1.349 deviations.
func bySpread(w *way, delay float64) (shift, sigma float64) {
	n := float64(len(w.delays))
	spread := max((w.quantile(3, 4)-w.quantile(1, 4))/1.349, w.least()/4/n)
	queue := max(delay-w.typical()-3*spread, 0)
	return 0, math.Hypot(granularity, math.Hypot(max(spread, (delay-w.least())/8)/2, queue/math.Sqrt(12)))
}

// byTilt: one direction is loaded and the other is not, so that a late packet's
// offset tells how late it was. Where that is not plain, as byExcess.
func byTilt(w *way, delay float64) (shift, sigma float64) {
	if !w.tilt.plain() {
		return byExcess(w, delay)
	}
	excess, unsure := max(delay-w.least(), 0), (w.typical()-w.least())/math.Sqrt(float64(len(w.delays)))
	sigma = math.Hypot(max(w.tilt.rest, granularity), math.Hypot(w.tilt.sure*excess, w.tilt.slope*unsure))
	return w.tilt.slope * excess, sigma
}
