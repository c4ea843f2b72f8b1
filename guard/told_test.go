package guard

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTheKernelGivesUpWhenWeDo: its maxerror grows by 500 ppm from what it was
// told, and at 16 s it marks its clock (ntp_tick_adj, NTP_PHASE_LIMIT).
func TestTheKernelGivesUpWhenWeDo(t *testing.T) {
	for _, off := range []time.Duration{0, 300 * time.Millisecond} {
		w := newIdeal(t, func(c *Config) { c.StepThreshold = time.Second })
		w.start(time.Hour)
		w.stepped(-off)
		w.run(time.Hour)
		w.silence(true)
		last, told := w.fixes[len(w.fixes)-1], w.g.clock.lastAgreed
		if !last.Sync || last.Error <= 0 {
			t.Fatalf("%+v", last)
		}
		kernel := told + time.Duration(float64(unsyncAt-last.Error)/growth)
		w.pass(kernel - w.now.Mono - time.Minute)
		w.wantSynced("a minute before the kernel gives up", true)
		w.run(2 * time.Minute)
		w.wantSynced("a minute after", false)
	}
}

// TestTheKernelIsToldOfASleep, of which it takes no notice by itself.
func TestTheKernelIsToldOfASleep(t *testing.T) {
	w := newIdeal(t, nil)
	w.start(10 * time.Minute)
	w.silence(true)
	w.now.Boot, w.now.Wall = w.now.Boot+time.Hour, w.now.Wall.Add(time.Hour)
	w.step(Woke{})
	last := w.fixes[len(w.fixes)-1]
	if last.Sync || last.Error != unsyncAt || last.Step != 0 || last.Slew != 0 || last.Leap != 0 || last.Frequency != last.Before {
		t.Errorf("%+v", last)
	}
	fixes := len(w.fixes)
	w.now.Boot, w.now.Wall = w.now.Boot+time.Hour, w.now.Wall.Add(time.Hour)
	w.step(Woke{})
	if len(w.fixes) != fixes {
		t.Error("told twice")
	}
	w.silence(false)
	w.run(time.Minute)
	w.wantSynced("after a sync", true)
}

// TestAJumpDuringACorrection: what the correction said is not true any more.
func TestAJumpDuringACorrection(t *testing.T) {
	for name, jump := range map[string]func(w *ideal){
		"by another program": func(w *ideal) { w.stepped(-time.Minute) },
		"a sleep":            func(w *ideal) { w.now.Boot, w.now.Wall = w.now.Boot+time.Hour, w.now.Wall.Add(time.Hour) },
	} {
		w := newIdeal(t, nil)
		w.stepped(-5 * time.Second)
		w.holdFix = true
		for w.start(0); w.plan.Fix.Key == 0; {
			w.run(time.Second / 4)
		}
		w.silence(true)
		w.holdFix = false
		jump(w)
		w.step(Woke{})
		if w.plan.Fix.Key != 0 || len(w.fixes) == 0 {
			t.Fatalf("%s: the correction is not over", name)
		}
		w.wantSynced(name, false)
		w.silence(false)
		w.run(3 * time.Minute)
		w.wantSynced(name+", after another sync", true)
	}
	w := newIdeal(t, nil) // and our own step is none
	w.stepped(-5 * time.Second)
	w.start(time.Minute)
	w.wantSynced("our own step", true)
	if i := slices.IndexFunc(w.notes, func(s string) bool { return strings.HasPrefix(s, "the clock was stepped by 5s") }); i >= 0 {
		t.Error(w.notes[i])
	}
}

// TestLossesAreNotSaidWithoutEnd: two programs may take each other's tables away.
func TestLossesAreNotSaidWithoutEnd(t *testing.T) {
	w := newIdeal(t, nil).start(time.Minute)
	w.notes = nil
	for range 150 {
		seen := w.kernel(w.plan.Kernel).(KernelSeen)
		seen.Culprit, seen.OffFor = "nft (PID 42)", 3*time.Millisecond
		w.step(seen)
		w.run(time.Second)
	}
	var said []string
	for _, n := range w.notes {
		if strings.HasPrefix(n, "shield lost: changed by nft (PID 42), off for 3ms") {
			said = append(said, n)
		}
	}
	if len(said) != 3*lossesSaid || !strings.HasSuffix(said[9], "; no more of this is said within the minute") ||
		!strings.HasSuffix(said[10], "; and 50 times before that") {
		t.Errorf("%d lines:\n%s", len(said), strings.Join(said, "\n"))
	}
}
