package guard

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ntpveil/rules"
)

// What comes between a correction, its acknowledgement, a sync, a sleep and a restart.

// report delivers what was held back of corrections that were made.
func (w *ideal) report() {
	late := w.late
	w.late, w.lateFix = nil, false
	for _, seen := range late {
		w.step(seen)
	}
}

// sleep suspends the host for an hour.
func (w *ideal) sleep() {
	w.now.Boot, w.now.Wall = w.now.Boot+time.Hour, w.now.Wall.Add(time.Hour)
}

// TestALapseDoesNotMeetASync: of two corrections that are planned one upon the
// other the second would find the frequency of the first, take it for another
// program's, and leave the clock alone for good.
func TestALapseDoesNotMeetASync(t *testing.T) {
	w := newIdeal(t, nil)
	w.drift = 300
	w.start(time.Hour)
	if w.freq < 250 {
		t.Fatalf("steered by %+.1f ppm", w.freq)
	}
	w.midRound()
	w.g.clock.steer.since, w.g.clock.fixBy, w.lateFix = 0, 0, true
	for w.step(Woke{}); w.g.round.active; {
		w.run(time.Second / 4)
	}
	w.report()
	clear(w.silent)
	w.run(time.Hour)
	w.wantSynced("an hour later", true)
	if w.said("another program") {
		t.Errorf("the journal says %q", w.notes)
	}
}

// TestALateReportIsBelieved: a daemon that stood still for long hears of what it
// made after it gave it up.
func TestALateReportIsBelieved(t *testing.T) {
	w := newIdeal(t, nil)
	w.drift = -31
	w.start(20 * time.Second)
	w.lateFix = true
	for len(w.late) == 0 {
		w.run(time.Second / 4)
	}
	before := w.clock.Forward + w.clock.Backward
	w.run(2 * correctWithin)
	w.report()
	if w.clock.Forward+w.clock.Backward == before {
		t.Error("the next run would not know of it")
	}
	w.run(time.Hour)
	w.wantSynced("an hour later", true)
	if w.said("another program") {
		t.Errorf("the journal says %q", w.notes)
	}
}

// TestTheKernelIsNotLeftBelieving: what an earlier run told it holds until it is told
// otherwise, and so does what was told on the eve of a sleep.
func TestTheKernelIsNotLeftBelieving(t *testing.T) {
	for what, happen := range map[string]func(w *ideal){
		"a limit, after a restart": func(w *ideal) {
			w.truth += 5000 * time.Second
			w.restart()
			w.run(time.Minute)
		},
		"a sleep, after a restart": func(w *ideal) {
			w.silence(true)
			w.restart()
			w.sleep()
			w.step(Woke{})
		},
		"a sleep before the report of a correction": func(w *ideal) {
			w.lateFix = true
			for len(w.late) == 0 {
				w.run(time.Second)
			}
			w.silence(true)
			w.sleep()
			w.report()
		},
	} {
		w := newIdeal(t, nil)
		w.start(10 * time.Minute)
		if !w.sync {
			t.Fatalf("%s: not synchronised before", what)
		}
		happen(w)
		w.wantSynced(what, false)
		if w.sync {
			t.Errorf("%s: the kernel still calls its clock synchronised", what)
		}
		fixes := len(w.fixes)
		w.run(3 * time.Minute)
		if n := len(w.fixes) - fixes; w.fixes[len(w.fixes)-1].Sync || n > 1 {
			t.Errorf("%s: then %+v", what, w.fixes[fixes:])
		}
	}
}

// TestASyncOfAnotherClock is not done: what was corrected was changed at once.
func TestASyncOfAnotherClock(t *testing.T) {
	w := newIdeal(t, nil)
	w.start(10 * time.Minute)
	if why := w.order("sync", 0); why != "none" {
		t.Fatalf("sync: %q", why)
	}
	w.lateFix = true
	for len(w.late) == 0 {
		w.run(time.Second / 4)
	}
	w.silence(true)
	w.stepped(time.Minute)
	w.report()
	if n := len(w.replies); n != 1 || !strings.Contains(w.replies[0].Err, "changed") {
		t.Errorf("replied %+v", w.replies)
	}
}

// TestASyncedClockWasNotDead: a time daemon before us saved it in this boot, which
// does not make what the boot began with a clock that lost its time.
func TestASyncedClockWasNotDead(t *testing.T) {
	w := newIdeal(t, nil)
	w.saved.Saved, w.sync = w.now.Wall.Add(-time.Minute), true
	w.truth = 2000 * time.Second
	w.start(10 * time.Minute)
	w.wantSynced("beyond clock.max_change.forward", false)
}

// TestOnceABoot: a restart does not give the one unlimited way forward back.
func TestOnceABoot(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-365 * day)
	w.start(10 * time.Minute)
	w.wantSynced("the first time", true)
	w.restart()
	w.stepped(-365 * day)
	w.run(10 * time.Minute)
	w.wantSynced("after a restart", false)
}

// TestAnOrderedStepIsOne, whatever else clock.step leaves to slews.
func TestAnOrderedStepIsOne(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.StepThreshold, c.StepWhen = day, "never" })
	w.stepped(-5000 * time.Second)
	w.start(10 * time.Minute)
	if why := w.order("step", time.Minute); why != "" {
		t.Errorf("step: %q", why)
	}
	w.wantSynced("permitted", true)
}

// TestAShorterPollHoldsAtOnce, and not after the interval that was configured before.
func TestAShorterPollHoldsAtOnce(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.PollMin, c.PollMax = 10*time.Hour, 10*time.Hour })
	w.start(time.Hour)
	c, asked := w.g.conf, w.asked[liar]
	c.PollMin, c.PollMax = 64*time.Second, 2048*time.Second
	w.step(Configured{c})
	w.run(c.PollMax * 12 / 10)
	if w.asked[liar] == asked {
		t.Errorf("the next sync comes in %s", w.g.round.next-w.now.Mono)
	}
}

// TestASmallJumpIsNoticedAtOnce: half a second is enough for what depends on the time.
func TestASmallJumpIsNoticedAtOnce(t *testing.T) {
	for _, by := range []time.Duration{700 * time.Millisecond, -150 * time.Millisecond, 20 * time.Millisecond} {
		w := newIdeal(t, nil)
		w.start(10 * time.Hour)
		asked := w.asked[liar]
		w.stepped(by)
		w.step(Woke{})
		w.wantSynced("after a step", false)
		w.run(10 * time.Second)
		w.wantSynced("asked anew", true)
		if w.asked[liar] == asked || w.truth.Abs() > 200*time.Millisecond {
			t.Errorf("stepped by %s: asked %d times, behind by %s", by, w.asked[liar]-asked, w.truth)
		}
	}
}

// TestAnObservedSleep: nobody knows what the clock is after it.
func TestAnObservedSleep(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Observe = true })
	w.start(10 * time.Minute)
	w.silence(true)
	w.sleep()
	w.step(Woke{})
	w.wantSynced("after a sleep, without an answer", false)
}

// TestKilledBesideAStep: that a step was made is known to the next run though nobody
// told the one that was killed, and that it was not made, too.
func TestKilledBesideAStep(t *testing.T) {
	for _, made := range []bool{true, false} {
		for _, dead := range []bool{true, false} {
			w := newIdeal(t, nil)
			off := 900 * time.Second
			if dead {
				off = 400 * day
			}
			w.stepped(-off)
			w.start(0)
			w.lateFix, w.holdFix = made, !made
			for !w.g.clock.pending() {
				w.run(time.Second / 4)
			}
			w.late, w.lateFix, w.holdFix = nil, false, false
			w.restart()
			w.run(10 * time.Minute)
			w.wantSynced("after the kill", true)
			w.stepped(-off)
			w.run(10 * time.Minute)
			w.wantSynced("a second time", false)
			if f := w.g.clock.forward; (f > off/2) == dead {
				t.Errorf("made %t, dead %t: %s are counted", made, dead, f)
			}
		}
	}
}

// TestAStepThatWaits for the disk is not made of a clock that is another one by then.
func TestAStepThatWaits(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-900 * time.Second)
	w.holdDisk = true
	for w.start(0); !w.g.clock.pending(); {
		w.run(time.Second / 4)
	}
	w.stepped(900 * time.Second) // another program sets it right
	w.step(Woke{})
	w.holdDisk = false
	w.run(10 * time.Minute)
	w.wantSynced("set right by another program", true)
	for _, f := range w.fixes {
		if f.Step != 0 {
			t.Errorf("stepped by %s", f.Step)
		}
	}
}

// TestAStepThatFailed is not counted, though another program makes the same one.
func TestAStepThatFailed(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-900 * time.Second)
	w.fixErr = errors.New("operation not permitted")
	w.start(time.Minute)
	w.stepped(w.truth)
	w.fixErr = nil
	w.restart()
	w.run(10 * time.Minute)
	if f := w.g.clock.forward; f > time.Second || len(w.fixes) == 0 {
		t.Errorf("%s are counted", f)
	}
	w.wantSynced("set right by another program", true)
}

// TestAStopWaitsForTheCorrection: what it moved the clock by is on disk before the end,
// or the next run would have the whole of clock.max_change again.
func TestAStopWaitsForTheCorrection(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Rotate = "off" })
	w.stepped(-900 * time.Second)
	w.lateFix = true
	w.start(0)
	for !w.g.clock.pending() {
		w.run(time.Second / 4)
	}
	if why := w.order("stop", 0); why != "none" || w.plan.Done {
		t.Errorf("%q, done %t before the correction was reported", why, w.plan.Done)
	}
	w.lateFix = false
	w.step(w.late[0])
	if w.clock.Forward != 900*time.Second || !w.plan.Done {
		t.Errorf("%+v, done %t", w.clock, w.plan.Done)
	}
}

// TestAJumpEndsASlew, in the kernel, and in what we think that it still does.
func TestAJumpEndsASlew(t *testing.T) {
	w := newIdeal(t, nil)
	w.start(2 * time.Hour)
	w.truth += 450 * time.Millisecond
	for n := len(w.fixes); len(w.fixes) == n; {
		w.run(time.Second)
	}
	w.run(2 * time.Second)
	w.stepped(300 * time.Millisecond)
	w.step(Woke{})
	if off := w.g.Status(w.now).Clock.Offset - w.truth.Seconds(); off > 1e-3 || off < -1e-3 {
		t.Errorf("status: off by %+.6f s", off)
	}
	for n := len(w.fixes); len(w.fixes) == n; {
		w.run(time.Second / 10)
	}
	last := w.fixes[len(w.fixes)-1]
	if off := last.Slew + last.Step - w.truth; off.Abs() > time.Millisecond {
		t.Errorf("then corrected by %s, %s wrong", last.Slew+last.Step, off)
	}
}

// TestASyncThatCannotBeAnyMore is ended: the host woke up without a network, say.
func TestASyncThatCannotBeAnyMore(t *testing.T) {
	w := newIdeal(t, nil)
	w.start(10 * time.Minute)
	w.silence(true)
	if why := w.order("sync", 0); why != "none" {
		t.Fatalf("sync: %q", why)
	}
	w.sleep()
	w.step(HostSeen{Host{}})
	w.run(time.Minute)
	if n := len(w.replies); n != 1 || w.replies[0].Err != noNetwork {
		t.Errorf("replied %+v", w.replies)
	}
}

// TestAnotherNetworkDuringASync: its answers tell nothing of the new ways, and the
// next one comes at once.
func TestAnotherNetworkDuringASync(t *testing.T) {
	w := newIdeal(t, nil)
	w.start(10 * time.Hour)
	w.midRound()
	host, asked := w.g.host, w.asked[liar]
	host.Link.Index++
	w.step(HostSeen{host})
	for w.g.round.active {
		w.run(time.Second / 4)
	}
	if ways := w.g.clock.steer.Noise(); ways != 0 {
		t.Errorf("answers over the network before were learnt from: noise %s", ways)
	}
	clear(w.silent)
	w.run(15 * time.Second)
	if w.asked[liar] == asked {
		t.Errorf("the next sync comes in %s", w.g.round.next-w.now.Mono)
	}
}

// TestWhatWasRefusedIsNoSync: an admin who finds a clock that is not synchronised wants
// to know since when.
func TestWhatWasRefusedIsNoSync(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-5000 * time.Second)
	w.start(time.Hour)
	if s := w.g.Status(w.now).Clock; s.LastSync != nil || s.Stratum == 0 || s.Offset < 4999 {
		t.Errorf("%+v", s)
	}
	w.order("step", time.Minute)
	w.run(time.Hour)
	w.truth += 5000 * time.Second
	w.run(12 * time.Hour)
	w.fixErr = errors.New("operation not permitted")
	w.order("step", time.Hour)
	if last := w.g.Status(w.now).Clock.LastSync; last == nil || w.now.Wall.Sub(*last) < 12*time.Hour {
		t.Errorf("last synchronised at %v, it is %v", last, w.now.Wall)
	}
}

// TestTheLastSyncIsToldByTheClockAsItIs, not by what it was before that sync stepped it.
func TestTheLastSyncIsToldByTheClockAsItIs(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-365 * day)
	for w.start(0); w.g.clock.lastAgreed == 0; {
		w.run(time.Second / 4)
	}
	if last := w.g.Status(w.now).Clock.LastSync; last == nil || w.now.Wall.Sub(*last).Abs() > time.Minute {
		t.Errorf("last synchronised at %v, it is %v", last, w.now.Wall)
	}
}

// TestExposuresAreToldByTheClockAsItIs: who was asked before the first step was not
// asked long ago, and a restart still knows who was shown which address, even
// where the ledger has the times of a clock that was wrong.
func TestExposuresAreToldByTheClockAsItIs(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-15 * time.Minute)
	w.start(time.Second)
	w.run(time.Minute)
	look := func(when string) {
		for _, e := range w.g.Status(w.now).Exposures {
			if e.AskedAt == nil || w.now.Wall.Sub(*e.AskedAt) > 10*time.Minute || e.AskedAt.After(w.now.Wall) {
				t.Errorf("%s: %s was asked at %v, it is %s", when, e.Address, e.AskedAt, w.now.Wall)
			}
		}
	}
	look("after our own step")
	w.stepped(-5 * time.Hour)
	w.step(Woke{})
	look("after another program's step")
	w.run(time.Minute)
	look("after the correction of that")

	g := at()
	g.seen.Shield.Exposed = []rules.Exposed{{Addr: addr("2001:db8:1:1::99"), Until: g.now.Mono + time.Hour}}
	g.adoptRecord(ExposureRecord{Addr: addr("2001:db8:1:1::99"), Kind: "throw-away", Server: addr("2001:db8:101::1"), GuardedUntil: g.now.Wall.AddDate(-50, 0, 0)})
	if len(g.addresses) != 1 || g.addresses[0].server.Addr() != addr("2001:db8:101::1") || g.addresses[0].guarded != g.now.Mono+time.Hour {
		t.Errorf("adopted: %+v", g.addresses)
	}
}
