package guard

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// wantSteered fails the test unless the frequency is the crystal's.
func (w *ideal) wantSteered(what string, within float64) {
	w.t.Helper()
	if off := math.Abs(w.freq - w.drift); off > within {
		w.t.Errorf("%s: steered by %+.3f ppm, the crystal needs %+.3f", what, w.freq, w.drift)
	}
}

// TestFrequencyIsLearnt, kept over everything that changes the phase alone, and
// over a restart.
func TestFrequencyIsLearnt(t *testing.T) {
	w := newIdeal(t, nil)
	w.drift = -31
	w.start(10 * time.Minute)
	w.wantSteered("after ten minutes", 0.1)

	host := w.g.host
	for what, happen := range map[string]func(){
		"a step by somebody else": func() { w.stepped(time.Minute) },
		"a suspend": func() {
			w.now.Boot, w.now.Wall, w.truth = w.now.Boot+time.Hour, w.now.Wall.Add(time.Hour-time.Second), w.truth+time.Second
		},
		"a pause that nobody noticed": func() { w.truth += 3 * time.Second },
		"another network": func() {
			host.Link.Index++
			w.step(HostSeen{host})
		},
		"a correction that failed": func() {
			w.fixErr = errors.New("operation not permitted")
			w.run(time.Hour)
			w.fixErr = nil
		},
		"a restart": w.restart,
	} {
		happen()
		for range 20 {
			w.run(time.Minute)
			w.wantSteered(what, 1)
		}
		w.run(time.Hour)
		w.wantSynced(what, true)
		if w.truth.Abs() > time.Millisecond {
			t.Errorf("%s: an hour later the clock is off by %s", what, w.truth)
		}
	}
}

// TestKernelsFrequencyIsABeginning: where nothing was learnt, but another program did.
func TestKernelsFrequencyIsABeginning(t *testing.T) {
	w := newIdeal(t, nil)
	w.drift, w.freq = 40, 40
	w.start(5 * time.Second)
	w.wantSteered("at the first correction", 1)
}

// TestForeignFrequency: two programs that steer one clock would fight.
func TestForeignFrequency(t *testing.T) {
	w := newIdeal(t, nil)
	w.drift = 10
	w.start(time.Hour)
	w.freq = 200
	w.run(time.Hour)
	w.wantSynced("steered by another program", false)
	if w.freq != 200 {
		t.Errorf("the frequency of the other program was changed to %+.3f ppm", w.freq)
	}
	if why := w.g.whyNotSynced(); !strings.Contains(why, "another program") {
		t.Errorf("status says %q", why)
	}
	if why := w.order("step", time.Minute); why != "" {
		t.Errorf("step: %q", why)
	}
	w.run(time.Hour)
	w.wantSynced("taken over", true)
	w.wantSteered("taken over", 0.5)
}

// TestObservedClock: the virtual clock tells the truth, and nothing is touched.
func TestObservedClock(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Observe = true })
	w.drift, w.freq = 45, 5
	w.stepped(-3 * time.Second)
	w.start(15 * time.Minute)
	for i := range 100 {
		w.run(17 * time.Second)
		s := w.g.Status(w.now)
		if off := w.truth.Seconds() - s.Clock.Offset; math.Abs(off) > 100e-6 || math.Abs(s.Clock.Frequency-45) > 0.2 {
			t.Fatalf("look %d: the virtual clock is off by %.6f s, its frequency %+.3f ppm", i, off, s.Clock.Frequency)
		}
	}
	w.stepped(time.Minute)
	w.step(Woke{})
	w.run(5 * time.Minute)
	if s := w.g.Status(w.now); math.Abs(w.truth.Seconds()-s.Clock.Offset) > 1e-3 {
		t.Errorf("after a step of the clock below: %.6f s, truth %s", s.Clock.Offset, w.truth)
	}
	if len(w.fixes) > 0 || w.freq != 5 {
		t.Errorf("corrections %+v", w.fixes)
	}
}

// TestObservedSlew: what is told is how far the host's clock is off, from the
// first sync on, and not how far the virtual clock has been slewed by now.
func TestObservedSlew(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Observe = true })
	w.stepped(-400 * time.Millisecond) // below clock.step.threshold
	w.start(5 * time.Second)
	for i := range 30 {
		s := w.g.Status(w.now)
		if off := w.truth.Seconds() - s.Clock.Offset; math.Abs(off) > 1e-3 || s.Clock.RootDistance > 0.05 {
			t.Fatalf("look %d: offset %+.6f s, truth %s, root distance %.6f s", i, s.Clock.Offset, w.truth, s.Clock.RootDistance)
		}
		w.run(3 * time.Second)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * 1e9) }

// TestSteeringCounts: who has a majority cannot get past clock.max_change by
// dragging instead of pushing.
func TestSteeringCounts(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.MaxForward = 3 * time.Second })
	w.start(10 * time.Minute)
	const length = 6 * time.Hour
	for at := time.Duration(0); at < length; at += time.Minute {
		w.run(time.Minute)
		w.truth += 300 * time.Microsecond * 60 // what the servers say
	}
	honest := seconds(honestFreq / ppm * length.Seconds())
	moved := seconds(300e-6*length.Seconds()) - w.truth
	if moved > 3*time.Second+honest+time.Second {
		t.Errorf("the clock was moved by %s", moved)
	}
	w.wantSynced("beyond the limit", false)
	told := 0
	for _, n := range w.notes {
		if strings.Contains(n, "max_change") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("it is said %d times why", told)
	}
}

// TestPollGrows where the clock is good, and falls where it is not.
func TestPollGrows(t *testing.T) {
	w := newIdeal(t, nil)
	w.drift = 12
	w.start(12 * time.Hour)
	if i := w.g.round.interval; i != w.g.conf.PollMax {
		t.Errorf("a calm clock is looked at every %s", i)
	}
	for range 30 {
		w.drift += 2
		w.run(time.Hour / 2)
	}
	if i := w.g.round.interval; i > w.g.conf.PollMax/2 {
		t.Errorf("a restless clock is looked at every %s", i)
	}
}

// TestAnotherCrystal: a virtual machine that moved has another crystal, off by more
// than one can change. That the clock surprises again and again is not taken for
// that many pauses.
func TestAnotherCrystal(t *testing.T) {
	w := newIdeal(t, nil)
	w.drift = 20
	w.start(time.Hour)
	w.drift = 140
	w.run(time.Hour)
	w.wantSteered("on another host", 0.5)
	if w.truth.Abs() > time.Millisecond {
		t.Errorf("the clock is behind by %s", w.truth)
	}
}

// TestFrequencyLapses: servers that drag the clock and then are gone leave no
// frequency behind that no crystal needs, for nobody counts what it does.
func TestFrequencyLapses(t *testing.T) {
	w := newIdeal(t, nil)
	w.start(time.Hour)
	for range 120 {
		w.run(time.Minute)
		w.truth += 400 * time.Microsecond * 60 // what the servers say
	}
	if w.freq < 300 {
		t.Fatalf("the servers drag, and the frequency is %+.1f ppm", w.freq)
	}
	for _, s := range fourServers {
		w.silent[addr(s.Host)] = true
	}
	w.run(30 * time.Minute)
	if w.freq != honestFreq {
		t.Errorf("without any answer the frequency stays %+.1f ppm", w.freq)
	}
	before := len(w.fixes)
	w.fixErr = errors.New("operation not permitted")
	w.g.clock.frequency, w.freq = 300, 300
	w.run(time.Hour)
	if n := len(w.fixes) - before; n == 0 || n > 40 {
		t.Errorf("%d tries in an hour at what is not permitted", n)
	}
}
