package guard

import (
	"fmt"
	"time"
)

const (
	saveEvery = time.Minute // as timesyncd does
	// credibleFor is how long after the build a saved clock can be: systemd's own
	// bound for a clock at boot (clock-valid-range-usec-max, 15 years). What is later
	// was saved by a clock that ran mad, and would keep this one there.
	credibleFor = 15 * 8766 * time.Hour
)

// saved is what is known of the clock from before this boot, and what of it is
// kept for the next.
type saved struct {
	alive bool      // at start the clock was synchronised in this boot already, by whomever
	floor time.Time // certainly past: the build, or the latest that a clock of this host was saved at
	dead  bool      // at boot the clock was before floor, and it was not corrected since
	save  Save      // that is under way
	next  time.Duration
	why   string // why the last one failed
}

// seeSaved takes what was saved before this run. What is later than a clock that is
// right was saved by one that was not, and stepped there this one could not come back:
// clock.max_change.backward forbids it.
func (g *Guard) seeSaved(ev ClockSeen) {
	g.saved.floor, g.saved.alive = g.build, ev.Synced
	for i, at := range []time.Time{ev.Saved, ev.Epoch} {
		switch {
		case g.incredible(at):
			g.note(KindNotice, fmt.Sprintf("%s says %s, more than 15 years after this program was built: it is not believed",
				[...]string{"the saved clock", "clock-epoch"}[i], at.UTC().Format(time.RFC3339)))
		case i == 0 && ev.Right && at.After(g.now.Wall):
			g.note(KindNotice, fmt.Sprintf("the saved clock says %s, and the clock, which was synchronised before this start, is not that far: it is not believed", at.UTC().Format(time.RFC3339)))
		case at.After(g.saved.floor):
			g.saved.floor = at
		}
	}
}

func (g *Guard) incredible(at time.Time) bool { return at.After(g.build.Add(credibleFor)) }

// findDead says whether the clock was dead when the host booted, by what it would
// have shown then: the service manager may have set it to the saved clock since,
// and that goes on. A later run in the same boot takes the word of the first, for
// what is saved by now is from this boot; so may it be where another time daemon
// synchronised it before us.
func (g *Guard) findDead(left ClockRecord) {
	s := &g.saved
	s.next = g.now.Mono + saveEvery
	if left.BootID == g.host.BootID {
		s.dead = left.Dead
		return
	}
	s.dead = !s.alive && g.now.Wall.Add(-g.now.Boot).Before(s.floor)
	left.BootID, left.Forward, left.Backward, left.Wild, left.Dead, left.Step = g.host.BootID, 0, 0, false, s.dead, 0
	g.record(Record{Kind: KindClock, Clock: &left})
}

// revive sets a clock that is before what is certainly past to that. It is not
// synchronised by it, and no limit is used up.
func (g *Guard) revive() {
	c, lag := &g.clock, g.saved.floor.Sub(g.now.Wall)
	if lag <= 0 || g.conf.Observe {
		return
	}
	g.note(KindNotice, fmt.Sprintf("the clock stands at %s, before it was last saved, or this program built: setting it forward to %s",
		g.now.Wall.UTC().Format(time.RFC3339), g.saved.floor.UTC().Format(time.RFC3339)))
	g.saved.dead = true
	g.intend(Fix{Step: lag, Error: unsyncAt, Frequency: settable(c.frequency), Before: c.frequency}, revived)
}

// reviving reports whether the clock still has to be set to what was saved.
func (g *Guard) reviving() bool { return g.clock.pending() && g.clock.fixGround == revived }

// advanceSaved has the clock saved every minute, and when s.next was brought
// forward: at a sync and at the stop.
func (g *Guard) advanceSaved() bool {
	s := &g.saved
	if s.save.Key != 0 || !g.worthSaving() || !g.due(s.next) {
		return false
	}
	s.next = g.now.Mono + saveEvery
	s.save = Save{Key: g.key(), Synced: g.synced()}
	return true
}

// worthSaving reports whether nothing says that the clock is wrong. A host that
// was never synchronised has a saved clock too: its time goes on after a reboot.
func (g *Guard) worthSaving() bool {
	c := &g.clock
	return !g.conf.Observe && !c.pending() && (c.agreed || c.lastAgreed == 0) && !g.incredible(g.now.Wall)
}

// seeSave ends one. A failure is said once as long as it is the same.
func (g *Guard) seeSave(ev Saved) {
	s, why := &g.saved, ""
	if ev.Key != s.save.Key {
		return
	}
	s.save = Save{}
	if ev.Err != nil {
		why = ev.Err.Error()
	}
	if why != "" && why != s.why {
		g.note(KindNotice, why)
	}
	s.why = why
}
