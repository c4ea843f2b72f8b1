package guard

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard/selection"
	"ntpveil/guard/servo"
)

// farWay is the way to a fourth server, the three others being 10 ms away: its
// delay, what one direction has more of than the other, and its jitter.
type farWay struct{ delay, asymmetry, jitter time.Duration }

func (f farWay) samples(r *rand.Rand) (all []selection.Candidate) {
	for i := range 4 {
		way, more, jitter := 10*time.Millisecond, time.Duration(0), time.Millisecond
		if i == 3 {
			way, more, jitter = f.delay/2, f.asymmetry, f.jitter
		}
		there := way + more + time.Duration(r.ExpFloat64()*float64(jitter))
		back := way + time.Duration(r.ExpFloat64()*float64(jitter))
		all = append(all, selection.Candidate{Sample: selection.Sample{Server: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 123),
			Stratum: 2, Offset: (there - back) / 2, Delay: there + back, RootDelay: 2 * time.Millisecond}})
	}
	return all
}

// run returns the error (RMS, s) of the votes' offset and of the servo, the far
// server combined or not as the vote says, or always.
func (f farWay) run(always bool) (vote, clock float64) {
	const rounds = 500
	r := rand.New(rand.NewPCG(1, 2))
	s := servo.New(0, servo.UnknownFreq, 0)
	for i := range rounds {
		now := time.Duration(i+1) * 64 * time.Second
		cands := f.samples(r)
		res := selection.Judge(cands, 3)
		var readings []servo.Reading
		sum, weights := 0.0, 0.0
		for j, v := range res.Verdicts {
			if v.State == selection.Selected || always && v.State == selection.Apart {
				c, w := cands[j].Sample, 1/cands[j].Sample.RootDistance().Seconds()
				readings = append(readings, servo.Reading{Server: c.Server, Offset: c.Offset, Delay: c.Delay, At: now})
				sum, weights = sum+w*c.Offset.Seconds(), weights+w
			}
		}
		s.Observe(readings)
		e := s.Estimate(now).Offset.Seconds()
		vote, clock = vote+sum/weights*sum/weights/rounds, clock+e*e/rounds
	}
	return math.Sqrt(vote), math.Sqrt(clock)
}

// TestFarServerIsBetterLeftOut: both the vote's offset and the clock are nearer to
// the truth, or as near, where a truechimer that is far from the others is not combined.
func TestFarServerIsBetterLeftOut(t *testing.T) {
	for _, f := range []farWay{{200 * time.Millisecond, 30 * time.Millisecond, 2 * time.Millisecond}, {100 * time.Millisecond, 20 * time.Millisecond, 5 * time.Millisecond},
		{300 * time.Millisecond, 100 * time.Millisecond, 20 * time.Millisecond}} {
		vote, clock := f.run(false)
		voteAll, clockAll := f.run(true)
		t.Logf("%+v: vote %.6f s, %.2f of that with it; clock %.6f s, %.2f", f, vote, vote/voteAll, clock, clock/clockAll)
		if vote > 0.9*voteAll || clock > 1.05*clockAll {
			t.Errorf("%+v: it is better not left out", f)
		}
	}
}
