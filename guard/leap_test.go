package guard

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/selection"
)

var midnight = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

// leapTo has true time, and the kernel as it was told, do a leap second if it was
// due since. The kernel is told on the day alone (package sysclock).
func (w *ideal) leapTo(before time.Time) {
	if _, may := leapDay(before); !may {
		w.armed = 0
		return
	}
	due := func(leap int) time.Duration {
		switch {
		case leap == 1 && !w.now.Wall.Before(midnight):
			return -time.Second
		case leap == 2 && !w.now.Wall.Before(midnight.Add(-time.Second)):
			return time.Second
		}
		return 0
	}
	by := due(w.leap)
	kernels := due(w.armed)
	w.truth += by
	sync, slew := w.sync, w.slew
	w.stepped(kernels + kernels/100_000) // the two clocks are read one after the other
	w.sync, w.slew = sync, slew
	if by != 0 || kernels != 0 {
		w.leap, w.armed = 0, 0
	}
}

// newYear is a world an hour before midnight on the last of December, in which all
// servers announce a leap second.
func newYear(t *testing.T, leap int, change func(c *Config)) *ideal {
	w := newIdeal(t, func(c *Config) {
		c.PollMax = 256 * time.Second
		if change != nil {
			change(c)
		}
	})
	w.now.Wall, w.leap = midnight.Add(-time.Hour), leap
	w.g.now.Wall = w.now.Wall
	w.tell = func(_ netip.Addr, s *selection.Sample) { s.Leap = uint8(w.leap) }
	return w
}

// until runs to so long after midnight, and has something looked at as it goes,
// often when it is near.
func (w *ideal) until(past time.Duration, look func()) {
	for {
		left := midnight.Add(past).Sub(w.now.Wall)
		if left <= 0 {
			return
		}
		step := time.Second / 4
		if far := w.now.Wall.Sub(midnight).Abs(); far > time.Minute {
			step = min(far-time.Minute+step, 20*time.Second)
		}
		w.run(min(step, left))
		if look != nil {
			look()
		}
	}
}

func (w *ideal) said(what string) bool { return strings.Contains(strings.Join(w.notes, "\n"), what) }

// TestLeapSecond: it is made by the kernel, and nothing else moves. It is not taken
// for a step by somebody else, and no exchange spans it.
func TestLeapSecond(t *testing.T) {
	for leap, name := range map[int]string{1: "inserted", 2: "deleted"} {
		w := newYear(t, leap, nil)
		w.start(10 * time.Minute)
		if w.armed != leap || w.g.Status(w.now).Clock.Leap != map[int]string{1: "insert", 2: "delete"}[leap] {
			t.Errorf("%s: the kernel is told %d", name, w.armed)
		}
		asked := 0
		w.until(-14*time.Second, func() { asked = w.asked[liar] })
		w.g.syncSoon()
		w.until(45*time.Second, nil)
		if w.asked[liar] != asked || w.leap != 0 {
			t.Errorf("%s: asked %d times around the leap second", name, w.asked[liar]-asked)
		}
		if !w.said("leap second: the clock was set by") || w.said("by another program") {
			t.Errorf("%s: the journal says %q", name, w.notes)
		}
		w.until(3*time.Hour, func() { w.wantSynced(name, true) })
		if w.truth.Abs() > time.Millisecond || w.asked[liar] == asked {
			t.Errorf("%s: three hours later the clock is off by %s", name, w.truth)
		}
		if slices.ContainsFunc(w.fixes, func(f Fix) bool { return f.Step != 0 || f.Slew.Abs() > 10*time.Millisecond }) {
			t.Errorf("%s: something else moved: %+v", name, w.fixes)
		}
	}
}

// TestLeapSecondObserved: the virtual clock makes it where the kernel was told by
// nobody, and goes with the kernel where another program told it.
func TestLeapSecondObserved(t *testing.T) {
	for what, armed := range map[string]int{"nobody": 0, "another program": 1} {
		w := newYear(t, 1, func(c *Config) { c.Observe = true })
		w.start(10 * time.Minute)
		w.armed = armed
		check := func() {
			if off := w.g.Status(w.now).Clock.Offset - w.truth.Seconds(); off > 1e-3 || off < -1e-3 {
				t.Fatalf("%s told the kernel, %s: the virtual clock is off by %f s", what, w.now.Wall, off)
			}
		}
		w.until(-10*time.Second, check)
		if left := midnight.Sub(w.now.Wall); w.plan.Wake == 0 || w.plan.Wake-w.now.Mono > left {
			t.Errorf("%s told the kernel: it would wake %s from now, the leap second comes in %s", what, w.plan.Wake-w.now.Mono, left)
		}
		w.until(time.Hour, check)
		if len(w.fixes) > 0 || w.said("by another program") || (w.truth.Abs() < time.Millisecond) != (armed != 0) {
			t.Errorf("%s told the kernel: behind by %s, %q", what, w.truth, w.notes)
		}
	}
}

// TestLeapSecondIsDisarmed, and the kernel told, when the majority goes: to others
// who say nothing of it, or to nobody. Where nobody answers nobody contradicts.
func TestLeapSecondIsDisarmed(t *testing.T) {
	for what, tt := range map[string]struct {
		happen func(w *ideal)
		armed  int
	}{
		"two do not announce it any more": {func(w *ideal) {
			w.tell = func(to netip.Addr, s *selection.Sample) {
				if to == liar || to == addr("2001:db8:102::1") {
					s.Leap = 1
				}
			}
		}, 0},
		"they disagree about the time": {func(w *ideal) {
			w.tell = func(to netip.Addr, s *selection.Sample) {
				if s.Leap = 1; to == liar || to == addr("2001:db8:102::1") {
					s.Offset += time.Minute
				}
			}
		}, 0},
		"none answers": {func(w *ideal) {
			for _, s := range fourServers {
				w.silent[addr(s.Host)] = true
			}
		}, 1},
	} {
		w := newYear(t, 1, nil)
		w.start(20 * time.Minute)
		if w.armed != 1 {
			t.Fatalf("%s: the kernel was not told in the first place", what)
		}
		tt.happen(w)
		w.until(-time.Minute, nil)
		if w.armed != tt.armed {
			t.Errorf("%s: the kernel is told %d, want %d", what, w.armed, tt.armed)
		}
		if tt.armed == 0 {
			w.leap = 0 // it does not come
		}
		w.until(time.Minute, nil)
		if w.truth.Abs() > time.Millisecond {
			t.Errorf("%s: the clock is off by %s", what, w.truth)
		}
	}
}

// TestASleepDisarms: the kernel is told of no leap second as long as nobody knows what
// the clock is, and no other program is blamed for it.
func TestASleepDisarms(t *testing.T) {
	w := newYear(t, 1, nil)
	w.start(20 * time.Minute)
	w.silence(true)
	w.now.Boot, w.now.Wall = w.now.Boot+10*time.Minute, w.now.Wall.Add(10*time.Minute)
	w.step(Woke{})
	w.until(time.Minute, nil)
	if w.armed != 0 || w.said("another program") {
		t.Errorf("told %d, the journal says %q", w.armed, w.notes)
	}
	w.silence(false)
	w.until(20*time.Minute, nil)
	w.wantSynced("asked anew", true)
	if w.truth.Abs() > time.Millisecond {
		t.Errorf("the clock is off by %s", w.truth)
	}
}

// TestLateForLeap: after it some have stepped, some smear, some are late. Groups
// that disagree move nothing and are named, and so does a majority that is late.
func TestLateForLeap(t *testing.T) {
	const late, smears = time.Second, time.Second / 2
	for what, tt := range map[string]struct {
		off  []time.Duration // of each server, after the leap second
		says string
	}{
		"two stepped, two late":               {[]time.Duration{0, 0, late, late}, "2001:db8:101::1, 2001:db8:102::1 against 2001:db8:103::1, 2001:db8:104::1"},
		"two stepped, one late, one smears":   {[]time.Duration{0, 0, late, smears}, "2001:db8:101::1, 2001:db8:102::1 against "},
		"one stepped, three late":             {[]time.Duration{0, late, late, late}, "2001:db8:102::1, 2001:db8:103::1, 2001:db8:104::1 are +1.000 s off after the leap second: late for it"},
		"all late":                            {[]time.Duration{late, late, late, late}, "are +1.000 s off after the leap second"},
		"three stepped, one late: outvoted":   {[]time.Duration{0, 0, 0, late}, ""},
		"three stepped, one smears: outvoted": {[]time.Duration{0, 0, 0, smears}, ""},
	} {
		w := newYear(t, 1, nil)
		w.start(time.Minute)
		w.until(0, nil)
		w.tell = func(to netip.Addr, s *selection.Sample) {
			s.Offset += tt.off[slices.IndexFunc(fourServers, func(x Server) bool { return addr(x.Host) == to })]
		}
		fixes := len(w.fixes)
		w.until(40*time.Minute, func() {
			if w.truth.Abs() > time.Millisecond {
				t.Fatalf("%s: the clock was moved, it is off by %s", what, w.truth)
			}
		})
		if moved := len(w.fixes) > fixes; moved != (tt.says == "") || !strings.Contains(w.g.clock.why, tt.says) {
			t.Errorf("%s: corrected %t, %q; want %q", what, moved, w.g.clock.why, tt.says)
		}
		w.tell = nil
		w.run(time.Hour)
		w.wantSynced(what+", then all agree", true)
	}
}

// TestFalseLeap: where all announced a leap second that did not come, the clock is
// right again when the doubt is over.
func TestFalseLeap(t *testing.T) {
	w := newYear(t, 1, func(c *Config) { c.StepWhen = "always" })
	w.start(time.Minute)
	w.until(-time.Minute, nil)
	w.leap = 0
	w.until(30*time.Minute, nil)
	if w.truth != time.Second && (w.truth-time.Second).Abs() > time.Millisecond {
		t.Errorf("half an hour later the clock is off by %s", w.truth)
	}
	w.until(2*time.Hour, nil)
	if w.truth.Abs() > time.Millisecond {
		t.Errorf("two hours later the clock is off by %s", w.truth)
	}
}

// TestNoLeapOnOtherDays: neither the month before nor at the end of another one.
func TestNoLeapOnOtherDays(t *testing.T) {
	for at, want := range map[time.Time]bool{
		midnight.Add(-time.Second): true, midnight.Add(-24 * time.Hour): true, midnight: false, midnight.Add(-24*time.Hour - 1): false,
		time.Date(2027, 6, 30, 12, 0, 0, 0, time.UTC): true, time.Date(2027, 3, 31, 12, 0, 0, 0, time.UTC): false,
		time.Date(2027, 6, 30, 22, 0, 0, 0, time.FixedZone("", -4*3600)): false,
	} {
		end, may := leapDay(at)
		if may != want || may && end != midnight && end != time.Date(2027, 7, 1, 0, 0, 0, 0, time.UTC) {
			t.Errorf("%s: %t, %s", at, may, end)
		}
	}
}

// TestLeapSecondDuringSync: the kernel was told by the run before, and this one has
// heard of nothing yet. What it measured before is given up.
func TestLeapSecondDuringSync(t *testing.T) {
	w := newYear(t, 1, nil)
	w.now.Wall = midnight.Add(-3 * time.Second)
	w.g.now.Wall, w.armed = w.now.Wall, 1
	w.silent[addr("2001:db8:104::1")] = true // the sync is under way until then
	w.start(0)
	w.until(-time.Second, nil)
	if w.asked[liar] != 1 || !w.g.round.active {
		t.Fatalf("asked %d times, under way: %t", w.asked[liar], w.g.round.active)
	}
	w.run(2 * time.Second)
	for _, s := range w.g.servers {
		if s.fresh || w.g.round.active {
			t.Errorf("a sample of %s is left", s.addr)
		}
	}
	w.until(5*time.Minute, nil)
	w.wantSynced("after it", true)
	if !w.said("leap second: the clock was set by -1 s") || w.said("by another program") || w.truth.Abs() > time.Millisecond {
		t.Errorf("the clock is off by %s, the journal says %q", w.truth, w.notes)
	}
}
