package guard

import (
	"fmt"
	"time"

	"ntpveil/guard/selection"
	"ntpveil/rules"
)

const firstAnswers = 3 * time.Second // how long the first sync waits for every name

// round is one sync: every server that may be asked is asked, then all are judged.
type round struct {
	active     bool
	next       time.Duration // the next one
	interval   time.Duration // current poll interval
	asked      int
	soon       bool          // the next one was brought forward
	noRotation time.Duration // until then addresses rest
}

// syncSoon brings the next sync forward; the buckets still hold.
func (g *Guard) syncSoon() {
	if !g.round.active {
		g.round.next, g.round.soon = g.now.Mono, true
	}
}

// advanceRound begins the sync that is due, early enough for its addresses.
func (g *Guard) advanceRound() bool {
	r := &g.round
	if r.interval == 0 {
		r.interval = g.conf.PollMin
	}
	if r.active || g.orders.stopping() || g.clock.pending() || !g.network.usable() || g.futile() != "" || !g.due(r.next-ahead) {
		return false
	}
	chosen := g.chosenOnes()
	if len(chosen) == 0 || g.waitsForMore() {
		return false
	}
	due := max(r.next, g.now.Mono)
	r.asked = 0
	earliest := time.Duration(0)
	for _, s := range chosen {
		at := g.allowed(s)
		if q := g.query(s); q != nil {
			at = max(at, q.ends())
		}
		if !g.routed(s.addr.Addr()) {
			s.failed = "no route to its address family"
			continue
		}
		if at > due {
			if earliest == 0 || at < earliest {
				earliest = at
			}
			continue
		}
		g.begin(s, due+time.Duration(g.rng.Int64N(int64(200*time.Millisecond))))
		r.asked++
	}
	r.soon = false
	if r.asked == 0 {
		r.next = max(earliest, g.now.Mono+time.Second) + ahead
		return true
	}
	r.active = true
	return true
}

// futile says why no query could leave, so that none is begun and no token is
// spent on it.
func (g *Guard) futile() string {
	switch {
	case g.ledger.err != nil:
		return "the ledger cannot be written: " + g.ledger.err.Error()
	case g.seenErr != nil && g.conf.Shield != rules.Off && !g.stableNow():
		return "the shield cannot be put up: " + g.seenErr.Error()
	}
	return ""
}

// waitsForMore reports whether the very first sync should wait for names that
// were not resolved yet.
func (g *Guard) waitsForMore() bool {
	if g.clock.rounds > 0 || g.settled() && (g.seated() >= g.conf.Use || len(g.conf.Pools) == 0) {
		return false
	}
	return !g.due(g.started + firstAnswers)
}

// judgeRound judges when every exchange of a sync is over.
func (g *Guard) judgeRound() bool {
	if !g.round.active {
		return false
	}
	for _, q := range g.queries {
		if !q.over {
			return false
		}
	}
	g.round.active = false
	g.clock.rounds++
	judged := g.judge()
	g.round.interval = g.nextInterval(judged)
	if !g.round.soon {
		g.round.next = g.now.Mono + g.jitter(g.round.interval, 0.1)
	}
	g.endSyncs(judged.Agreed && g.clock.refused == "", g.clock.why+g.clock.refused)
	return true
}

// judge votes over the samples of this sync and acts on the outcome. Each
// sample is used once.
func (g *Guard) judge() selection.Result {
	var cands []selection.Candidate
	var from []*server
	for _, s := range g.chosenOnes() {
		s.judged = false
		if !s.fresh {
			continue
		}
		s.fresh = false
		cands = append(cands, selection.Candidate{Sample: s.sample, Age: g.now.Mono - s.sample.At})
		from = append(from, s)
	}
	res := selection.Judge(cands, g.conf.MinAgree)
	for i, s := range from {
		s.verdict, s.judged = res.Verdicts[i], true
	}
	if !res.Agreed {
		g.disagree(res)
		return res
	}
	g.agree(res)
	return res
}

// nextInterval doubles the poll interval while the clock is as good as its
// servers can tell, and halves it while it is not. A server that asked for a
// lower rate is skipped rather than waited for.
func (g *Guard) nextInterval(res selection.Result) time.Duration {
	i := g.round.interval
	switch {
	case !res.Agreed:
		i = max(i/2, g.conf.PollMin)
	case res.Offset.Abs() > res.Error:
		i /= 2
	default:
		i *= 2
	}
	return min(max(i, g.conf.PollMin), g.conf.PollMax)
}

func (g *Guard) disagree(res selection.Result) {
	if g.clock.why != res.Reason {
		g.note(KindNotice, "no sync: "+res.Reason)
	}
	g.clock.why = res.Reason
}

func (g *Guard) agree(res selection.Result) {
	c := &g.clock
	c.why = ""
	c.lastAgreed, c.agreedAt = g.now.Mono, g.now.Wall.UTC()
	c.offset, c.distance = res.Offset, res.Error
	c.stratum, c.leap = res.Stratum, res.Leap
	c.agreed = true
	if g.conf.Observe {
		g.record(Record{Kind: KindClock, Text: fmt.Sprintf("observed: offset %+.6f s, root distance %.6f s", res.Offset.Seconds(), res.Error.Seconds())})
		return
	}
	g.correct()
}
