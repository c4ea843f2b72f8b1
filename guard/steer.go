package guard

import (
	"cmp"
	"math"
	"slices"
	"time"

	"ntpveil/guard/selection"
	"ntpveil/guard/servo"
)

const (
	ppm        = 1e6   // times s/s
	ageing     = 1e-6  // s/s by which a frequency may have changed that an earlier run learnt
	bend       = 20e-6 // s/s: by more than that no crystal changes between two syncs
	doubt      = 8     // deviations from what was foretold that are no chance any more
	honestFreq = 100.  // ppm: what is steered beyond it is a movement of the clock, and counted
)

// steering is what is learnt of how the clock goes.
type steering struct {
	*servo.Servo
	found bool          // the kernel's frequency at start was read
	base  float64       // ppm that the system clock has already, below the clock that the servo disciplines
	lost  bool          // the phase has to be taken from the next vote as it is
	odd   int           // syncs in a row that were not as foretold
	since time.Duration // when the frequency was set last
}

// beginSteering starts the servo with what an earlier run learnt of the
// frequency, or else with what the kernel has.
func (g *Guard) beginSteering(learnt ClockRecord) {
	c := &g.clock
	freq, skew := c.frequency/ppm, servo.UnknownFreq
	if learnt.Skew > 0 {
		freq, skew = learnt.Frequency/ppm, learnt.Skew/ppm+ageing
	}
	steered := c.frequency / ppm
	if g.conf.Observe {
		c.steer.base, freq, steered = c.frequency, freq-steered, 0
	}
	c.steer.Servo, c.steer.lost, c.steer.since = servo.New(freq, skew, steered), true, g.now.Mono
}

// virtual is by how much the disciplined clock is ahead of the host's. Only where
// we observe are these two clocks.
func (g *Guard) virtual(at time.Duration) time.Duration {
	if !g.conf.Observe || g.clock.steer.Servo == nil {
		return 0
	}
	return g.clock.steer.Ahead(at)
}

// behind is by how much the disciplined clock is still to be moved.
func (g *Guard) behind() time.Duration {
	if g.clock.lastAgreed == 0 {
		return 0
	}
	return g.clock.steer.Estimate(g.now.Mono).Offset
}

// offset is by how much a clock without an error of ours would be ahead of the
// host's: what is not corrected yet and, where we observe, what the virtual clock
// was corrected by. A slew of that one is on its way for a minute.
func (g *Guard) offset() time.Duration { return g.virtual(g.now.Mono) + g.behind() }

// learn lets the servo have the samples of those whom a vote selected, and says
// what it makes of them. The vote is above the servo: an estimate that the vote
// excludes is given up.
func (g *Guard) learn(res selection.Result, from []*server) servo.Estimate {
	st, now := &g.clock.steer, g.now.Mono
	var readings []servo.Reading
	for i, s := range from {
		if res.Verdicts[i].State == selection.Selected {
			at := min(s.sample.At, now)
			readings = append(readings, servo.Reading{Server: s.addr, Offset: s.sample.Offset - g.virtual(at), Delay: s.sample.Delay, At: at})
		}
	}
	slices.SortStableFunc(readings, func(a, b servo.Reading) int { return cmp.Compare(a.At, b.At) })
	offset := res.Offset - g.virtual(now)
	foretold := st.Estimate(now)
	possible := float64(res.Error) + doubt*float64(foretold.Sigma) + bend*float64(now-g.clock.lastAgreed)
	switch surprising := math.Abs(float64(foretold.Offset-offset)) > possible; {
	case st.lost || surprising:
		g.startAnew(readings[0].At, offset, res.Error, surprising && !st.lost)
	default:
		st.odd = 0
	}
	st.Observe(readings)
	est := st.Estimate(now)
	if (est.Offset - offset).Abs() > res.Error {
		st.Restart(now, offset, res.Error)
		est = st.Estimate(now)
	}
	return est
}

// startAnew takes the phase as the vote has it. What was not foretold once is a
// pause, or a step; asking soon shows whether it was. Twice, the frequency is another one.
func (g *Guard) startAnew(at, offset, sigma time.Duration, surprised bool) {
	st := &g.clock.steer
	st.Restart(at, offset, sigma)
	st.lost = false
	if !surprised {
		st.odd = 0
		return
	}
	g.round.interval = g.conf.PollMin
	if st.odd++; st.odd > 1 {
		st.Doubt()
	}
}

// steered tells the servo of a correction that was made.
func (g *Guard) steered(at Instant, fix Fix, made time.Duration) {
	st := &g.clock.steer
	st.Step(made)
	st.Steer(at.Mono, servo.Slew{Phase: fix.Slew.Seconds(), First: g.nextSecond(at), Constant: fix.Over}, (fix.Frequency-st.base)/ppm)
	g.clock.frequency, st.since = fix.Frequency, at.Mono
}

// nextSecond is when the kernel begins a slew that it is given at a time. The
// virtual clock begins at once.
func (g *Guard) nextSecond(at Instant) time.Duration {
	if g.conf.Observe {
		return at.Mono
	}
	return at.Mono + time.Second - time.Duration(at.Wall.Nanosecond())
}

// bearable is an uncertainty that hardly shows: it is no more than a sync is
// uncertain by, or it adds an eighth to what no waiting removes, the asymmetry of
// the ways to the servers above all.
func (g *Guard) bearable() time.Duration {
	return max(g.clock.steer.Noise(), g.clock.steer.Estimate(g.now.Mono).Sigma/2)
}

// drifts is by how much the uncertainty of the clock grows in a time.
func (g *Guard) drifts(d time.Duration) time.Duration {
	now, then := g.clock.steer.Estimate(g.now.Mono).Sigma, g.clock.steer.Estimate(g.now.Mono+d).Sigma
	return time.Duration(math.Sqrt(max(float64(then)*float64(then)-float64(now)*float64(now), 0)))
}

// lapse ends a frequency beyond what any crystal may need that two syncs did not
// confirm. What it moves the clock by is counted at the next correction, and there
// may be none. A sync that is under way ends first: its correction is planned upon
// the frequency that the clock has.
func (g *Guard) lapse() bool {
	c := &g.clock
	if g.conf.Observe || g.round.active || c.frequency == honest(c.frequency) || c.steer.Servo == nil ||
		!g.due(max(c.steer.since, c.fixBy)+2*g.round.interval) {
		return false
	}
	g.intend(Fix{Frequency: honest(c.frequency), Before: c.frequency, Error: g.distance(), Sync: g.synced(), Leap: int(c.leap)}, lapsed)
	return true
}

// beyondHonest is by how much the frequency moved the clock since it was set, apart from
// what any crystal may need.
func (g *Guard) beyondHonest() time.Duration {
	excess := g.clock.frequency - honest(g.clock.frequency)
	return time.Duration(excess / ppm * float64(g.now.Mono-g.clock.steer.since))
}

// settable is a frequency that the kernel takes, of one that was found: another
// program may have left more, by other means.
func settable(freq float64) float64 { return min(max(freq, -servo.MaxFreq*ppm), servo.MaxFreq*ppm) }

func honest(freq float64) float64 { return min(max(freq, -honestFreq), honestFreq) }
