package guard

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

// silence has no server answer.
func (w *ideal) silence(silent bool) {
	for _, s := range fourServers {
		w.silent[addr(s.Host)] = silent
	}
}

// saidOnce fails the test unless exactly one line of the journal begins so.
func (w *ideal) saidOnce(prefix string) {
	w.t.Helper()
	n := 0
	for _, line := range w.notes {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	if n != 1 {
		w.t.Errorf("%q was said %d times: %q", prefix, n, w.notes)
	}
}

// TestSavedClockIsAFloor: a clock that lost days is set to when it was saved, and
// from there the first sync takes it forward whatever the limits say, once.
func TestSavedClockIsAFloor(t *testing.T) {
	w := newIdeal(t, nil)
	w.saved.Saved = w.now.Wall.Add(-day)
	w.stepped(-3 * day)
	w.silence(true)
	w.start(0)
	if len(w.fixes) != 1 || w.fixes[0].Step != 2*day || w.fixes[0].Sync || w.fixes[0].Error != unsyncAt || !w.now.Wall.Equal(w.saved.Saved) {
		t.Fatalf("%+v, the clock shows %s", w.fixes, w.now.Wall)
	}
	w.wantSynced("as it was saved", false)
	w.saidOnce("the clock stands at 2026-10-29")
	w.silence(false)
	w.run(3 * time.Minute)
	w.wantSynced("after the first sync", true)
	if w.g.clock.forward > time.Second {
		t.Errorf("%s of the limit are used up", w.g.clock.forward)
	}
	w.stepped(-day)
	w.run(10 * time.Minute)
	w.wantSynced("a second time", false)
}

// TestDeadAtBoot: what the clock showed at boot counts, an hour before the start.
func TestDeadAtBoot(t *testing.T) {
	for _, tt := range []struct {
		name   string
		lost   time.Duration
		saved  time.Duration // after what the clock shows at the start; 0: never
		epoch  time.Duration
		synced bool
	}{
		{"the service manager set it to the saved clock", 3 * day, -time.Minute, 0, true},
		{"the service manager set it to clock-epoch", 3 * day, 0, -time.Minute, true},
		{"it went on while the host was off", 2000 * time.Second, -2 * time.Hour, -2 * day, false},
		{"nothing was saved", 3 * day, 0, 0, false},
		{"the saved clock is absurd", 3 * day, 16 * 366 * day, 0, false},
		{"the saved clock is absurd, clock-epoch is not", 3 * day, 16 * 366 * day, time.Hour, true},
	} {
		w := newIdeal(t, nil)
		w.stepped(-tt.lost)
		if tt.saved != 0 {
			w.saved.Saved = w.now.Wall.Add(tt.saved)
		}
		if tt.epoch != 0 {
			w.saved.Epoch = w.now.Wall.Add(tt.epoch)
		}
		w.start(time.Minute)
		w.wantSynced(tt.name, tt.synced)
		if tt.saved > day {
			w.saidOnce("the saved clock says 2042-")
		}
	}
}

// TestASecondRunKnowsWhatTheFirstFound: by then the saved clock is of this boot.
func TestASecondRunKnowsWhatTheFirstFound(t *testing.T) {
	for _, dead := range []bool{true, false} {
		w := newIdeal(t, nil)
		w.stepped(-3 * day)
		w.saved.Saved = w.now.Wall.Add(-2 * time.Hour)
		if dead {
			w.saved.Saved = w.now.Wall.Add(time.Hour)
		}
		w.silence(true)
		w.start(5 * time.Minute)
		w.saved.Saved = w.now.Wall.Add(-time.Second)
		w.silence(false)
		w.restart()
		w.run(3 * time.Minute)
		w.wantSynced(map[bool]string{true: "dead at boot", false: "alive at boot"}[dead], dead)
		w.restart()
		w.stepped(-day)
		w.run(10 * time.Minute)
		w.wantSynced("in a later run", false)
	}
}

// TestARightClockIsNotRevived: the host was synchronised by another time daemon, and
// long ago the clock was saved by one of ours that ran ahead.
func TestARightClockIsNotRevived(t *testing.T) {
	w := newIdeal(t, nil)
	w.sync, w.saved.Saved = true, w.now.Wall.Add(3*day)
	w.start(10 * time.Minute)
	w.wantSynced("as it was found", true)
	w.saidOnce("the saved clock says 2026-11-04")
	if slices.ContainsFunc(w.fixes, func(f Fix) bool { return f.Step != 0 }) || !w.saves[len(w.saves)-1].Synced {
		t.Errorf("fixes %+v, saves %+v", w.fixes, w.saves)
	}
}

func TestAnObservedClockIsNeitherRevivedNorSaved(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Observe = true })
	w.saved.Saved, w.saved.LocalRTC = w.now.Wall.Add(-day), true
	w.stepped(-3 * day)
	w.start(10 * time.Minute)
	if len(w.fixes) != 0 || len(w.saves) != 0 {
		t.Errorf("fixes %+v, saves %+v", w.fixes, w.saves)
	}
	if slices.ContainsFunc(w.g.Status(w.now).Weaknesses, func(x Weakness) bool { return x.Code == "local-rtc" }) {
		t.Error("the hardware clock matters to nobody here")
	}
}

func TestNotReadyBeforeTheClockIsRevived(t *testing.T) {
	w := newIdeal(t, nil)
	w.saved.Saved, w.holdFix = w.now.Wall, true
	w.stepped(-day)
	w.start(0)
	if w.g.Ready() {
		t.Error("ready")
	}
	w.holdFix = false
	w.step(Woke{})
	if !w.g.Ready() {
		t.Error("not ready")
	}
}

// TestWhenTheClockIsSaved: every minute, after each sync and at the stop, and
// never while it is known to be wrong.
func TestWhenTheClockIsSaved(t *testing.T) {
	w := newIdeal(t, nil)
	w.silence(true)
	w.start(10*time.Minute + time.Second)
	if n := len(w.saves); n != 10 || w.saves[n-1].Synced {
		t.Errorf("%d times in 10 minutes without a server: %+v", n, w.saves)
	}
	w.silence(false)
	for before := len(w.fixes); len(w.fixes) == before; {
		w.run(time.Second)
	}
	if last := w.saves[len(w.saves)-1]; !last.Synced {
		t.Errorf("after the sync: %+v", last)
	}
	w.run(10 * time.Second)
	n := len(w.saves)
	if why := w.order("stop", 0); why != "" || len(w.saves) != n+1 {
		t.Errorf("at the stop: %q, saved %d times", why, len(w.saves)-n)
	}

	w = newIdeal(t, nil)
	w.stepped(-2000 * time.Second)
	w.start(time.Minute - time.Second)
	w.wantSynced("beyond the limit", false)
	w.saves = nil
	w.run(time.Hour)
	if len(w.saves) != 0 {
		t.Errorf("a wrong clock was saved: %+v", w.saves)
	}
}

func TestAClockThatRanMadIsNotSaved(t *testing.T) {
	w := newIdeal(t, nil)
	w.silence(true)
	w.stepped(20 * 366 * day)
	w.start(10 * time.Minute)
	if len(w.saves) != 0 {
		t.Errorf("%+v", w.saves)
	}
}

func TestASaveThatFails(t *testing.T) {
	w := newIdeal(t, nil)
	w.saveErr = errors.New("save clock: no such directory")
	w.start(10 * time.Minute)
	w.wantSynced("all the same", true)
	w.saidOnce("save clock: no such directory")
	w.holdSave = true
	w.run(2 * time.Minute)
	saves := len(w.saves)
	if why := w.order("stop", stopWithin-time.Second); why != "none" {
		t.Errorf("stopped without waiting for the disk: %q", why)
	}
	w.run(2 * time.Second)
	if !w.plan.Done || len(w.saves) != saves {
		t.Errorf("a disk that hangs keeps the daemon: done %t", w.plan.Done)
	}
}

func TestLocalTimeInTheHardwareClockIsSaid(t *testing.T) {
	w := newIdeal(t, nil)
	w.saved.LocalRTC = true
	w.start(0)
	if !slices.ContainsFunc(w.g.Status(w.now).Weaknesses, func(x Weakness) bool { return x.Code == "local-rtc" }) {
		t.Error("not said")
	}
}

// TestARevivedClockMayRunMad: what another program left in the tick is more than the
// kernel takes as a frequency.
func TestARevivedClockMayRunMad(t *testing.T) {
	w := newIdeal(t, nil)
	w.saved.Saved, w.freq = w.now.Wall, 40_000
	w.stepped(-day)
	w.start(0)
	if len(w.fixes) != 1 || w.fixes[0].Frequency != 500 || w.fixes[0].Before != 40_000 {
		t.Errorf("%+v", w.fixes)
	}
}
