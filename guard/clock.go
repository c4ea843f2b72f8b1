package guard

import (
	"fmt"
	"strings"
	"time"
)

const (
	slewMost      = 500 * time.Millisecond // ADJ_OFFSET takes no more at a time
	fastest       = slewMost / 16          // in a second: 31250 ppm
	growth        = 500e-6                 // s/s by which the kernel's maxerror grows
	unsyncAt      = 16 * time.Second       // where the kernel and timedated give a clock up
	correctWithin = 10 * time.Second       // a correction that was not acknowledged by then is given up
)

// clock is what is known of the host's clock, and what was done to it.
type clock struct {
	rounds      int
	agreed      bool          // the last correction, or observation, holds
	lastAgreed  time.Duration // when a vote was won last; 0: never
	syncedAt    time.Time     // when the clock was corrected last, or observed; zero: never
	frequency   float64       // the kernel's, ppm
	offset      time.Duration // that the disciplined clock lacked at the last agreeing sync, by the servo's estimate
	steer       steering
	distance    time.Duration
	stratum     uint8
	leap        uint8         // by the majority: 1 inserts, 2 deletes
	leapt       time.Duration // when the last leap second was; 0: none in this run
	why         string        // why the last sync moved nothing
	stepAllowed bool          // at start, and after a resume, a pause, a network return
	fix         Fix
	fixRecord   Key // which it waits for; 0: none
	fixBy       time.Duration
	fixGround   ground
	late        Fix // one that was given up, and may have been made all the same
	lateGround  ground
	believed    bool // the kernel may call its clock synchronised, by our word or that of a run before
	localRTC    bool
	spoiled     bool          // since the correction was planned the clock was changed by another program, or slept
	wild        bool          // the one unlimited way forward of this boot was used
	forward     time.Duration // summed since boot
	backward    time.Duration
}

// ground is on what ground a correction is made.
type ground uint8

const (
	within    ground = iota // clock.max_change, of which it is a part
	ordered                 // an admin's word for this one, which clears what was counted
	deadClock               // the clock is from before the build, or was saved later: forward without a limit, once a boot
	refused                 // none: nothing moves, and the kernel is told not to be believed
	disarming               // none: nothing moves, and the kernel is told of no leap second any more
	revived                 // the clock is from before the build, or was saved later: set to that, which is no sync
	lapsed                  // none: nothing moves, and the frequency is one that a crystal may need
)

func (c *clock) pending() bool { return c.fix.Key != 0 }

// correct decides on the one correction for an agreed offset. freq is what the
// kernel's frequency is to be, in ppm.
func (g *Guard) correct(freq float64) {
	c := &g.clock
	on, why := g.ground(c.offset)
	fix := Fix{Frequency: freq, Before: c.frequency, TakeOver: on == ordered,
		Error: c.distance + c.offset.Abs(), Leap: int(c.leap)}
	switch {
	case why != "":
		g.unmoved("clock not corrected: ", why)
		if !c.agreed && !c.believed {
			return
		}
		c.agreed, fix.Frequency, fix.Leap, c.leap = false, honest(c.frequency), 0, 0
	case g.mayStep():
		c.stepAllowed = false
		fix.Step, fix.Error, fix.Sync = c.offset, c.distance, true
	default:
		c.stepAllowed = false
		rest := c.offset - c.steer.Coming(g.now.Mono, g.nextSecond(g.now))
		fix.Slew = min(max(rest, -slewMost), slewMost)
		fix.Over = over(fix.Slew)
		fix.Sync = fix.Error < unsyncAt
	}
	c.spoiled = false
	g.intend(fix, on)
	if fix.Step != 0 && on != ordered {
		g.announce(fix.Step)
	}
}

// announce has the ledger keep that a step is about to be made, which waits for it:
// else a daemon that is killed right after it would have the whole of clock.max_change
// once more. 0: it was not made.
func (g *Guard) announce(step time.Duration) {
	r := g.clockRecord(g.clock.fix)
	r.Dead, r.Step, r.Boot = g.saved.dead, step, g.bootedAt()
	g.clock.fixRecord = g.record(Record{Kind: KindClock, Clock: &r})
}

// underWay reports whether a correction is planned that the clock may have by now.
func (g *Guard) underWay() bool { return g.clock.pending() && g.ledger.wrote(g.clock.fixRecord) }

// recall gives up a correction that still waits, of a clock that is another one by now.
func (g *Guard) recall() {
	if g.clock.pending() && !g.underWay() {
		g.giveUp("the clock was changed before it was corrected")
	}
}

// bootedAt is what the clock, as it is, would have shown when the host booted. Only
// steps change it.
func (g *Guard) bootedAt() time.Time { return g.now.Wall.Add(-g.now.Boot).UTC() }

// restoreSums takes over what earlier runs in this boot made of the clock, the step
// included that the last one was killed beside, if it was made.
func (g *Guard) restoreSums(left *ClockRecord) {
	c := &g.clock
	if left.BootID != g.host.BootID {
		return
	}
	c.forward, c.backward = min(max(left.Forward, 0), far), min(max(left.Backward, 0), far)
	c.wild = left.Wild
	step := min(max(left.Step, -far), far)
	if step == 0 || (g.bootedAt().Sub(left.Boot)-step).Abs() > step.Abs()/2 {
		return
	}
	on := within
	if step > 0 && !c.wild && (left.Dead || left.Boot.Add(g.now.Boot).Before(g.build)) {
		on = deadClock
	}
	g.count(on, step)
	left.Forward, left.Backward, left.Wild, left.Dead, left.Step = c.forward, c.backward, c.wild, false, 0
	r := *left
	g.record(Record{Kind: KindClock, Clock: &r})
}

// intend puts a correction into the plan, with a key of its own.
func (g *Guard) intend(fix Fix, on ground) {
	fix.Key = g.key()
	g.clock.fix, g.clock.fixGround, g.clock.fixBy, g.clock.fixRecord = fix, on, g.now.Mono+correctWithin, 0
}

// disown tells the kernel that its clock is believed no longer. A step it knows
// of by itself (ntp_clear), and of an error that has grown to 16 s; of a sleep,
// after which the time came from the hardware clock, it takes no notice.
func (g *Guard) disown() {
	c := &g.clock
	if c.believed && !c.pending() && !g.conf.Observe {
		c.leap = 0
		g.intend(Fix{Error: unsyncAt, Frequency: honest(c.frequency), Before: c.frequency}, refused)
	}
}

// pretend corrects the virtual clock of those who only observe, which nothing
// forbids to step.
func (g *Guard) pretend(freq float64) {
	c := &g.clock
	fix := Fix{Frequency: freq, Slew: c.offset, Over: over(c.offset)}
	if c.offset.Abs() >= g.conf.StepThreshold {
		fix.Step, fix.Slew = c.offset, 0
	}
	g.steered(g.now, fix, fix.Step)
	c.agreed, c.why, c.syncedAt = true, "", g.now.Wall.UTC()
	g.record(Record{Kind: KindClock, Text: fmt.Sprintf("observed: offset %+.6f s, root distance %.6f s",
		(g.virtual(g.now.Mono) + g.behind()).Seconds(), c.distance.Seconds())})
}

// over is the time constant of a slew: the quickest by which the clock never runs
// wrong by more than fastest.
func over(slew time.Duration) (constant int) {
	for slew.Abs()>>(2+constant) > fastest {
		constant++
	}
	return constant
}

// mayStep reports whether the offset is to be stepped, rather than slewed.
func (g *Guard) mayStep() bool {
	c := &g.clock
	if g.orders.stepping() {
		return c.offset.Abs() >= min(g.conf.StepThreshold, slewMost)
	}
	if c.offset.Abs() < g.conf.StepThreshold {
		return false
	}
	return g.conf.StepWhen == "always" || g.conf.StepWhen == "start" && c.stepAllowed
}

// ground is on what ground an offset may be corrected, or why it may not.
func (g *Guard) ground(offset time.Duration) (on ground, why string) {
	c := &g.clock
	target := g.now.Wall.Add(offset)
	switch {
	case target.Before(g.build):
		return refused, fmt.Sprintf("%s is before this program was built", target.UTC().Format(time.RFC3339))
	case g.orders.stepping():
		return ordered, ""
	case offset > 0 && !c.wild && (g.saved.dead || g.now.Wall.Before(g.build)):
		return deadClock, ""
	case offset > 0 && c.forward+offset > g.conf.MaxForward:
		why = fmt.Sprintf("%+.3f s is more than clock.max_change.forward leaves (%s of %s used)", offset.Seconds(), c.forward, g.conf.MaxForward)
	case offset < 0 && c.backward-offset > g.conf.MaxBackward:
		why = fmt.Sprintf("%+.3f s is more than clock.max_change.backward leaves (%s of %s used)", offset.Seconds(), c.backward, g.conf.MaxBackward)
	default:
		return within, ""
	}
	return refused, why + ": `ntpveil sync --step` permits it"
}

// unmoved notes why nothing is moved, once as long as it is the same but for figures.
func (g *Guard) unmoved(what, why string) {
	if wording(g.clock.why) != wording(why) {
		g.note(KindNotice, what+why)
	}
	g.clock.why = why
}

// wording is a text without its figures.
func wording(text string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("+-.0123456789", r) {
			return -1
		}
		return r
	}, text)
}

// seeClock ends a correction; the first report of all is what was found at start.
func (g *Guard) seeClock(ev ClockSeen) {
	c := &g.clock
	if ev.Key == 0 && !c.steer.found {
		c.steer.found, c.frequency, c.believed, c.localRTC = true, ev.Frequency, ev.Synced, ev.LocalRTC
		g.seeSaved(ev)
		if ev.Err != nil {
			g.note(KindNotice, fmt.Sprintf("clock: %v", ev.Err))
		}
		return
	}
	if ev.At == (Instant{}) {
		ev.At = g.now
	}
	if !c.pending() || ev.Key != c.fix.Key {
		g.seeLate(ev)
		return
	}
	fix := c.fix
	if ev.Err != nil {
		if c.fixRecord != 0 {
			g.announce(0)
		}
		g.giveUp(ev.Err.Error())
		return
	}
	c.fix, c.localRTC = Fix{}, ev.LocalRTC
	g.made(ev, fix, c.fixGround)
	if c.fixGround >= refused {
		return
	}
	c.agreed, c.why, c.syncedAt = !c.spoiled, "", ev.At.Wall.UTC()
	g.saved.dead, g.saved.next = false, g.now.Mono
	if c.spoiled {
		g.endSyncs("the clock was changed as soon as it was corrected")
		g.disown()
	}
	g.endSyncs("")
	g.recordClock(fix, corrected(fix, c.distance))
}

// recordClock has the ledger keep what was made of the clock in this boot, and how it goes.
func (g *Guard) recordClock(fix Fix, text string) {
	r := g.clockRecord(fix)
	g.record(Record{Kind: KindClock, Text: text, Clock: &r})
}

func (g *Guard) clockRecord(fix Fix) ClockRecord {
	c := &g.clock
	return ClockRecord{BootID: g.host.BootID, Forward: c.forward, Backward: c.backward, Wild: c.wild, CorrectedAt: g.now.Wall.UTC(),
		Frequency: fix.Frequency, Skew: c.steer.Estimate(g.now.Mono).Skew * ppm}
}

// seeLate believes the report of a correction that was given up. The clock is as it
// says, and the next correction finds the frequency that it left.
func (g *Guard) seeLate(ev ClockSeen) {
	c := &g.clock
	if c.late.Key == 0 || ev.Key != c.late.Key {
		return
	}
	fix := c.late
	c.late = Fix{}
	if ev.Err == nil {
		g.made(ev, fix, c.lateGround)
		if c.lateGround < refused {
			g.recordClock(fix, corrected(fix, c.distance)+", and reported late")
		}
		g.disown()
	}
}

// made notes a correction that was made.
func (g *Guard) made(ev ClockSeen, fix Fix, on ground) {
	g.count(on, ev.Made+fix.Slew, g.beyondHonest())
	g.steered(ev.At, fix, ev.Made)
	g.clock.believed = fix.Sync
	if ev.Made != 0 {
		g.recordBuckets()
		g.retell(ev.Made)
	}
}

// count sums up what the clock was moved by, by a correction and before it by
// its frequency.
func (g *Guard) count(on ground, moves ...time.Duration) {
	c := &g.clock
	switch on {
	case ordered:
		c.forward, c.backward = 0, 0
	case deadClock:
		c.wild = true
	case revived:
	default:
		for _, moved := range moves {
			c.forward += max(moved, 0)
			c.backward += max(-moved, 0)
		}
	}
}

// giveUp ends a correction that failed. A step is still owed. That the kernel is
// not to be believed is told it once.
func (g *Guard) giveUp(why string) {
	c := &g.clock
	c.believed = c.believed && c.fixGround != refused
	c.stepAllowed = c.stepAllowed || c.fix.Step != 0
	c.fix, c.agreed, c.steer.lost = Fix{}, false, true
	g.unmoved("clock not corrected: ", why)
	g.endSyncs(why)
}

func corrected(fix Fix, distance time.Duration) string {
	verb, by := "slewed", fix.Slew
	if fix.Step != 0 {
		verb, by = "stepped", fix.Step
	}
	return fmt.Sprintf("clock %s by %+.6f s, root distance %.6f s", verb, by.Seconds(), distance.Seconds())
}

func (g *Guard) planFix() Fix {
	if g.clock.pending() && (g.due(g.clock.fixBy) || !g.underWay()) {
		return Fix{}
	}
	return g.clock.fix
}

// advanceClock gives a correction up that nobody acknowledged, and a frequency
// that nobody confirms.
func (g *Guard) advanceClock() bool {
	if !g.clock.pending() {
		return g.lapse()
	}
	if !g.due(g.clock.fixBy) {
		return false
	}
	g.clock.late, g.clock.lateGround = g.clock.fix, g.clock.fixGround
	g.giveUp(fmt.Sprintf("the correction was not made within %s", correctWithin))
	if g.round.active { // nobody knows what its samples were taken by
		g.startOver()
	}
	return true
}

// synced reports whether the clock can be believed now.
func (g *Guard) synced() bool {
	return g.clock.agreed && g.distance() < unsyncAt
}

// distance is the root distance as it has grown since the last agreeing sync.
// What the clock is known to be off by, and not corrected at once, is part of it:
// of one that we correct. Of another the offset is all that we say.
func (g *Guard) distance() time.Duration {
	d := g.clock.distance + time.Duration(growth*float64(g.now.Mono-g.clock.lastAgreed))
	if g.conf.Observe {
		return d
	}
	return d + g.behind().Abs()
}
