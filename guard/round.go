package guard

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard/selection"
	"ntpveil/rules"
)

const firstAnswers = 3 * time.Second // how long the first sync waits for every name

// quickly is by what the first syncs of a run are apart: a burst of three, and the
// fourth when the first poll interval is over, by which time the bucket has a token
// more. In simulated worlds of 20 ms the clock is within 1 ms for good after 14 s
// (median), after 72 s in nine of ten.
var quickly = []time.Duration{10 * time.Second, 22 * time.Second, 32 * time.Second}

// retryFirst is how soon servers are asked again of whom too few answered at first.
const retryFirst = 2 * time.Second

// round is one sync: every server that may be asked is asked, then all are judged.
type round struct {
	active     bool
	next       time.Duration // the next one
	interval   time.Duration // current poll interval
	asked      int
	soon       bool          // the next one was brought forward
	noRotation time.Duration // until then addresses rest
}

// startOver gives up a sync that is under way, since the clock that its samples
// were taken by is no longer the same, and brings the next one forward.
func (g *Guard) startOver() {
	g.abandonRound("the clock changed meanwhile")
	g.syncSoon()
}

func (g *Guard) abandonRound(why string) {
	for _, s := range g.servers {
		s.fresh = false
	}
	for _, q := range g.queries {
		if !q.over && !q.keys {
			g.fail(q, why)
		}
	}
	g.round.active = false
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
	g.awaitLeap()
	if r.interval == 0 {
		r.interval = g.conf.PollMin
	}
	if r.active || g.orders.stopping() || g.clock.pending() || !g.network.usable() || g.futile() != "" || !g.due(r.next-ahead) {
		return false
	}
	if len(g.chosenOnes()) == 0 || g.waitsForMore() || g.keyless() {
		return false
	}
	due := max(r.next, g.now.Mono)
	if later := g.hush(due); later > due {
		r.next, r.soon = later, false
		return true
	}
	r.asked = 0
	can := g.turns()
	if enough := min(g.enough(), len(can)); enough == 0 || can[enough-1].at > due {
		at := g.now.Mono + time.Second
		if enough > 0 {
			at = max(at, can[enough-1].at)
		}
		r.next, r.soon = at+ahead, false
		return true
	}
	for _, c := range can {
		if c.at <= due {
			g.begin(c.srv, due+time.Duration(g.rng.Int64N(int64(200*time.Millisecond))))
			r.asked++
		}
	}
	r.active, r.soon = true, false
	return true
}

// turn is when a server can be asked.
type turn struct {
	srv *server
	at  time.Duration
}

// turns are when the servers that there is a way to can be asked, the first
// first. Those of one bucket take turns: whoever was not asked for longest comes first.
func (g *Guard) turns() []turn {
	var out []turn
	for _, s := range g.chosenOnes() {
		if g.routed(s.addr.Addr()) && (s.nts == nil || s.nts.ready()) {
			out = append(out, turn{srv: s})
		}
	}
	slices.SortStableFunc(out, func(a, b turn) int { return cmp.Compare(a.srv.lastAsk, b.srv.lastAsk) })
	before := map[netip.Prefix]int{}
	for i, t := range out {
		k := key64(t.srv.addr.Addr())
		out[i].at = g.allowed(t.srv, before[k])
		out[i].at = max(out[i].at, g.busy(t.srv))
		before[k]++
	}
	slices.SortStableFunc(out, func(a, b turn) int { return cmp.Compare(a.at, b.at) })
	return out
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
	if g.clock.rounds == 0 && g.awaitsKeys() && !g.due(g.started+firstKeys) {
		return true
	}
	if g.clock.rounds > 0 || g.settled() && (g.seated() >= g.places() || len(g.conf.Pools) == 0) {
		return false
	}
	return !g.due(g.started + g.firstWait())
}

// judgeRound judges when every exchange of a sync is over, and no correction is on
// its way that the next one would not know of.
func (g *Guard) judgeRound() bool {
	if !g.round.active || g.clock.pending() {
		return false
	}
	for _, q := range g.queries {
		if !q.over && !q.keys {
			return false
		}
	}
	g.round.active = false
	g.clock.rounds++
	judged := g.judge()
	g.round.interval = g.nextInterval(judged)
	if !g.round.soon {
		g.round.next = g.now.Mono + g.jitter(g.pause(), 0.1)
	}
	g.orders.judged()
	if !g.clock.pending() || g.clock.fixGround >= refused { // else the correction ends them
		g.endSyncs(g.clock.why)
	}
	return true
}

// judge votes over the samples of this sync and acts on the outcome. Each
// sample is used once.
func (g *Guard) judge() selection.Result {
	var cands []selection.Candidate
	var from []*server
	g.voteless()
	for _, s := range g.chosenOnes() {
		s.judged = false
		if !s.fresh {
			continue
		}
		s.fresh = false
		cands = append(cands, selection.Candidate{Sample: s.sample, Age: g.now.Mono - s.sample.At})
		from = append(from, s)
	}
	res := selection.Judge(cands, g.enough())
	annul(&res, g.networkAlone(res, from))
	annul(&res, g.stripped(res, from))
	g.leapMajority(&res, from)
	for i, s := range from {
		s.verdict, s.judged = res.Verdicts[i], true
		g.tally(s, res.Agreed)
	}
	if !res.Agreed {
		g.unmoved("no sync: ", res.Reason)
		return res
	}
	g.agree(res, from)
	return res
}

// pause is how long after a sync the next one comes.
func (g *Guard) pause() time.Duration {
	switch n := g.clock.rounds; {
	case n < len(quickly) && g.clock.lastAgreed == 0:
		return retryFirst
	case n <= len(quickly):
		return quickly[n-1]
	}
	return g.round.interval
}

// nextInterval doubles the poll interval while waiting so long makes the clock
// hardly worse, and halves it where it does. A server that asked for a lower rate is skipped rather than waited for.
func (g *Guard) nextInterval(res selection.Result) time.Duration {
	i, bearable := g.round.interval, g.bearable()
	switch {
	case !res.Agreed || g.drifts(i) > 2*bearable:
		i /= 2
	case g.drifts(2*i) < bearable:
		i *= 2
	}
	return min(max(i, g.conf.PollMin), g.conf.PollMax)
}

// agree acts on a vote that was won.
func (g *Guard) agree(res selection.Result, from []*server) {
	c := &g.clock
	offset := res.Offset - g.virtual(g.now.Mono)
	if g.synced() && offset.Abs() > g.distance()+res.Error { // no clock drifts so fast: a pause
		c.stepAllowed = true
	}
	est := g.learn(res, from)
	c.lastAgreed = g.now.Mono
	c.offset, c.distance = est.Offset, res.Error+(est.Offset-offset).Abs()
	c.stratum, c.leap = res.Stratum, res.Leap
	freq := c.steer.base + est.Freq*ppm
	if g.conf.Observe {
		g.pretend(freq)
		return
	}
	g.correct(freq)
}
