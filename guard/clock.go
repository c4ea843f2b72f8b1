package guard

import (
	"fmt"
	"time"
)

const (
	slewMost      = 500 * time.Millisecond // ADJ_OFFSET takes no more at a time
	growth        = 500e-6                 // s/s by which the kernel's maxerror grows
	unsyncAt      = 16 * time.Second       // where the kernel and timedated give a clock up
	correctWithin = 10 * time.Second       // a correction that was not acknowledged by then is given up
)

// clock is what is known of the host's clock, and what was done to it.
type clock struct {
	rounds      int
	agreed      bool          // the last correction, or observation, holds
	lastAgreed  time.Duration // 0: never
	agreedAt    time.Time
	frequency   float64       // the kernel's, ppm
	offset      time.Duration // as the last agreeing sync saw it, less what was stepped since
	distance    time.Duration
	stratum     uint8
	leap        uint8
	why         string // why nothing may move
	stepAllowed bool   // at start, and after a resume, a pause, a network return
	stepOnce    bool   // ordered: the next correction may be any size
	wild        bool   // the one unlimited forward step of this boot was used
	fix         Fix
	fixBy       time.Duration
	forward     time.Duration // summed since boot
	backward    time.Duration
	refused     string // why the last correction was refused
}

func (c *clock) pending() bool { return c.fix.Key != 0 }

// correct decides on the one correction for an agreed offset.
func (g *Guard) correct() {
	c := &g.clock
	if why := g.refuse(c.offset); why != "" {
		if c.refused != why {
			g.note(KindNotice, "clock not corrected: "+why)
		}
		c.refused, c.agreed = why, false
		return
	}
	c.refused = ""
	fix := Fix{Key: g.key(), Error: c.distance, Sync: true, Leap: int(c.leap)}
	big := c.offset.Abs() >= g.conf.StepThreshold
	switch {
	case c.stepOnce && big, big && g.mayStep():
		fix.Step = c.offset
	default:
		fix.Slew = min(max(c.offset, -slewMost), slewMost)
		fix.Error += (c.offset - fix.Slew).Abs()
	}
	c.stepOnce, c.stepAllowed = false, false
	c.fix, c.fixBy = fix, g.now.Mono+correctWithin
}

func (g *Guard) mayStep() bool {
	switch g.conf.StepWhen {
	case "always":
		return true
	case "start":
		return g.clock.stepAllowed
	}
	return false
}

// refuse says why a correction may not be made, or nothing.
func (g *Guard) refuse(offset time.Duration) string {
	c := &g.clock
	target := g.now.Wall.Add(offset)
	if target.Before(g.build) {
		return fmt.Sprintf("%s is before this program was built", target.UTC().Format(time.RFC3339))
	}
	if c.stepOnce {
		return ""
	}
	if offset > 0 && !c.wild && g.now.Wall.Before(g.build) {
		c.wild = true // a host whose clock is dead may go forward, once a boot
		return ""
	}
	switch {
	case offset > 0 && c.forward+offset > g.conf.MaxForward:
		return fmt.Sprintf("%+.3f s is more than clock.max_change.forward leaves (%s of %s used): `ntpveil sync --step` permits it", offset.Seconds(), c.forward, g.conf.MaxForward)
	case offset < 0 && c.backward-offset > g.conf.MaxBackward:
		return fmt.Sprintf("%+.3f s is more than clock.max_change.backward leaves (%s of %s used): `ntpveil sync --step` permits it", offset.Seconds(), c.backward, g.conf.MaxBackward)
	}
	return ""
}

// seeClock ends a correction.
func (g *Guard) seeClock(ev ClockSeen) {
	c := &g.clock
	if !c.pending() || ev.Key != c.fix.Key {
		return
	}
	fix := c.fix
	c.fix = Fix{}
	if ev.Err != nil {
		c.agreed = false
		g.note(KindClock, "clock not corrected: "+ev.Err.Error())
		return
	}
	c.frequency = ev.Frequency
	moved := ev.Made + fix.Slew
	c.forward += max(moved, 0)
	c.backward += max(-moved, 0)
	c.offset -= ev.Made
	if ev.Made != 0 {
		g.recordBuckets()
	}
	g.record(Record{Kind: KindClock, Text: corrected(fix, c.distance),
		Clock: &ClockRecord{BootID: g.host.BootID, Forward: c.forward, Backward: c.backward, CorrectedAt: g.now.Wall.UTC()}})
}

func corrected(fix Fix, distance time.Duration) string {
	verb, by := "slewed", fix.Slew
	if fix.Step != 0 {
		verb, by = "stepped", fix.Step
	}
	return fmt.Sprintf("clock %s by %+.6f s, root distance %.6f s", verb, by.Seconds(), distance.Seconds())
}

func (g *Guard) planFix() Fix {
	if g.clock.pending() && g.due(g.clock.fixBy) {
		return Fix{}
	}
	return g.clock.fix
}

// advanceClock gives a correction up that nobody acknowledged.
func (g *Guard) advanceClock() bool {
	if !g.clock.pending() || !g.due(g.clock.fixBy) {
		return false
	}
	g.clock.fix, g.clock.agreed = Fix{}, false
	return true
}

// synced reports whether the clock can be believed now.
func (g *Guard) synced() bool {
	return g.clock.agreed && g.distance() < unsyncAt
}

// distance is the root distance as it has grown since the last agreeing sync.
func (g *Guard) distance() time.Duration {
	since := g.now.Mono - g.clock.lastAgreed
	return g.clock.distance + time.Duration(growth*float64(since))
}
