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

// contest is what three ways make of the same samples: the vote on each server's
// last one, the vote on the best of its last eight (the clock filter of RFC 5905
// section 10), and the servo that is given every one. Four servers are 10 ms away,
// each direction, and queues add jitter; the clock is off by 0.1 ppm.
type contest struct {
	r       *rand.Rand
	jitter  time.Duration
	history [4][]selection.Candidate
}

const (
	contestDrift  = 10_000_000 // a part of so much: 0.1 ppm
	contestRounds = 300
)

func (c *contest) way() time.Duration {
	return 10*time.Millisecond + time.Duration(c.r.ExpFloat64()*float64(c.jitter))
}

// poll asks every server: the candidates of the two votes, and the servo's readings.
func (c *contest) poll(every, now time.Duration) (last, best []selection.Candidate, readings []servo.Reading) {
	behind := now / contestDrift
	for i := range c.history {
		there, back := c.way(), c.way()
		s := selection.Sample{Stratum: 2, Offset: behind + (there-back)/2, Delay: there + back, RootDelay: 2 * time.Millisecond}
		h := c.history[i][max(0, len(c.history[i])-7):]
		for j := range h {
			h[j].Age += every
		}
		c.history[i] = append(h, selection.Candidate{Sample: s})
		last, best = append(last, selection.Candidate{Sample: s}), append(best, tightest(c.history[i]))
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 123)
		readings = append(readings, servo.Reading{Server: from, Offset: s.Offset, Delay: s.Delay, At: now})
	}
	return last, best, readings
}

// tightest is the candidate with the least root distance, aged by 15 ppm.
func tightest(of []selection.Candidate) selection.Candidate {
	best := of[0]
	width := func(c selection.Candidate) time.Duration { return c.Sample.RootDistance() + c.Age/1_000_000*15 }
	for _, c := range of {
		if width(c) < width(best) {
			best = c
		}
	}
	return best
}

// run returns the errors (RMS, s) of the last, the best and the servo, and by
// which part the root distance of the best is less.
func (c *contest) run(every time.Duration) (errors [3]float64, narrower float64) {
	s := servo.New(0, servo.UnknownFreq, 0)
	var distance [2]float64
	for n := range contestRounds {
		now := time.Duration(n+1) * every
		last, best, readings := c.poll(every, now)
		a, b := selection.Judge(last, 3), selection.Judge(best, 3)
		s.Observe(readings)
		distance[0], distance[1] = distance[0]+a.Error.Seconds(), distance[1]+b.Error.Seconds()
		for i, offset := range []time.Duration{a.Offset, b.Offset, s.Estimate(now).Offset} {
			off := (offset - now/contestDrift).Seconds()
			errors[i] += off * off / contestRounds
		}
	}
	for i := range errors {
		errors[i] = math.Sqrt(errors[i])
	}
	return errors, 1 - distance[1]/distance[0]
}

// TestNoFilterIsMissing holds the figures by which selection's doc.go says why the vote is on
// the last samples: the clock goes by the servo, which is better than a filter at
// every poll interval, and all that a filter would gain beside it is a narrower
// root distance where the paths are bad and the polls are quick.
func TestNoFilterIsMissing(t *testing.T) {
	for _, every := range []time.Duration{64 * time.Second, 256 * time.Second, 2048 * time.Second} {
		for _, jitter := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
			c := &contest{r: rand.New(rand.NewPCG(uint64(every), uint64(jitter))), jitter: jitter}
			e, narrower := c.run(every)
			t.Logf("poll %7s, jitter %5s: last %.6f s, best of eight %.6f s, servo %.6f s; the best's root distance is narrower by %2.0f %%",
				every, jitter, e[0], e[1], e[2], 100*narrower)
			if e[2] > e[1]/2 || narrower > 0.4 {
				t.Errorf("poll %s, jitter %s: a filter is worth its while", every, jitter)
			}
		}
	}
}
