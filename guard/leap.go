package guard

import (
	"fmt"
	"strings"
	"time"

	"ntpveil/guard/selection"
)

const (
	leapHush  = ahead + comeUp + exchange // so long before a leap second no sync begins: none of its exchanges spans it
	leapRest  = time.Minute               // after which servers may know of it
	leapDoubt = time.Hour                 // in which our own clock is believed rather than servers that are late for it
	leapSlack = 100 * time.Millisecond    // what a step may differ by from the second that it is, and how early it may seem
	notLeap   = 500 * time.Millisecond
)

// leapDay is the midnight at which a leap second can come, if the day is one at
// whose end it can: all that there were came with June or December.
func leapDay(at time.Time) (midnight time.Time, may bool) {
	y, m, d := at.UTC().Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC), m == time.June && d == 30 || m == time.December && d == 31
}

// leapSecond acts on a leap second, if there was one, and returns what of a step of
// the wall clock it was. The servers step with it, so that all offsets stay as they
// are; but a sample that was on its way is none. before is the wall clock before.
func (g *Guard) leapSecond(before time.Time, slept, stepped time.Duration) (by time.Duration) {
	c := &g.clock
	midnight, may := leapDay(before)
	straight := g.now.Wall.Add(-stepped) // what the clock would be without
	said := c.leap == 1 && !straight.Before(midnight) || c.leap == 2 && !straight.Before(midnight.Add(-time.Second))
	if by = leapOf(stepped, straight.Sub(midnight)); !may || by == 0 && !said {
		return 0
	}
	virtual := by == 0 && g.conf.Observe // nobody told the kernel to
	if virtual {
		by = map[uint8]time.Duration{1: -time.Second, 2: time.Second}[c.leap]
		c.steer.Leap(by)
	}
	c.leap = 0
	if slept > awake {
		return 0 // the next vote says what the clock is
	}
	if by == 0 {
		g.note(KindNotice, "the leap second that was announced did not come: another program told the kernel otherwise")
		return 0
	}
	g.note(KindNotice, fmt.Sprintf("leap second: the clock was set by %+d s", by/time.Second))
	c.leapt = g.now.Mono
	g.abandonRound("a leap second came")
	g.round.next, g.round.soon = g.now.Mono+leapRest, false
	if virtual {
		return 0
	}
	return by
}

// leapOf is the leap second that a step at a time past midnight is, if it is one.
func leapOf(stepped, past time.Duration) time.Duration {
	switch {
	case (stepped+time.Second).Abs() < leapSlack && past >= -leapSlack:
		return -time.Second
	case (stepped-time.Second).Abs() < leapSlack && past >= -time.Second-leapSlack:
		return time.Second
	}
	return 0
}

// awaitLeap has the core woken for a leap second, so that the virtual clock makes
// it in time and what it gave up is asked anew.
func (g *Guard) awaitLeap() {
	if midnight, may := leapDay(g.now.Wall); may && g.clock.leap != 0 {
		g.due(g.mono(midnight))
	}
}

// hush is when a sync that is due may begin: after a leap second that is near.
func (g *Guard) hush(due time.Duration) time.Duration {
	midnight, may := leapDay(g.now.Wall)
	if left := midnight.Sub(g.now.Wall); may && g.clock.leap != 0 && left < leapHush+time.Second {
		return max(due, g.now.Mono+left+leapRest)
	}
	return due
}

// leapMajority acts on what a vote says of leap seconds: around one it must not
// be against our own clock, and where nobody won it nobody may have one armed.
func (g *Guard) leapMajority(res *selection.Result, from []*server) {
	annul(res, g.lateForLeap(*res, from))
	for _, v := range res.Verdicts {
		if v.State == selection.Undecided {
			g.disarmLeap()
			return
		}
	}
}

// lateForLeap is why a vote that was won is not believed: we made a leap second a
// while ago, as a majority had announced it, and now one says that it did not come.
func (g *Guard) lateForLeap(res selection.Result, from []*server) string {
	c := &g.clock
	if !res.Agreed || c.leapt == 0 || g.now.Mono > c.leapt+leapDoubt {
		return ""
	}
	off := res.Offset - g.virtual(g.now.Mono) - g.behind()
	if off.Abs() < notLeap {
		return ""
	}
	var names []string
	for i, s := range from {
		if v := res.Verdicts[i].State; v == selection.Selected || v == selection.Apart {
			names = append(names, s.addr.Addr().String())
		}
	}
	return fmt.Sprintf("%s are %+.3f s off after the leap second: late for it, or wrong to have announced it; believed again %s after it",
		strings.Join(names, ", "), off.Round(100*time.Millisecond).Seconds(), leapDoubt)
}

// disarmLeap takes a leap second back that a majority had announced, and tells the
// kernel. Where there was no answer at all nobody contradicts, and it stays.
func (g *Guard) disarmLeap() {
	c := &g.clock
	if c.leap == 0 {
		return
	}
	c.leap = 0
	if _, may := leapDay(g.now.Wall); !may || g.conf.Observe {
		return
	}
	g.note(KindNotice, "leap second disarmed: the majority that announced it is gone")
	g.intend(Fix{Frequency: c.frequency, Before: c.frequency, Error: g.distance(), Sync: g.synced()}, disarming)
}
