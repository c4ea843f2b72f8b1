package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntpveil/rules"
)

const (
	ahead      = 5 * time.Second         // addresses are made so long before a sync: DAD takes some 2 s
	comeUp     = 6 * time.Second         // an address that is not ready then does not come up
	exchange   = 2500 * time.Millisecond // an answer that takes longer is worth nothing
	lingerFor  = 3 * time.Second         // socket and tuple stay, so that a late answer meets no closed port (RFC 9109)
	burst      = 45 * time.Second        // exchanges with one server within it are one exposure; two ordinary syncs are never so close
	maxTries   = 3                       // of interface IDs (RFC 8981 section 3.4)
	hoodAhead  = 2 * time.Second         // a neighbourhood stays closed past the exchange, whatever comes of it
	firstPort  = 32768
	portsAbove = 28232 // the kernel's own default range: 32768 to 60999
)

// query is one exchange on its way: waiting for its exposure to be on disk, in
// the shield and ready, then asked, then lingering.
type query struct {
	srv    *server
	to     netip.AddrPort
	keys   bool     // an NTS key exchange
	nts    *NTS     // what protects it; nil: a plain query, or a key exchange
	place  string   // the network that it belongs to, where NTS has to do with it
	token  Key      // the record of the token that it took
	cookie Key      // the record of the cookie that it spends; 0: none
	house  *address // whose address it is asked from; nil: none could be had yet
	from   netip.AddrPort
	due    time.Duration
	span   time.Duration // how long the exchange may take
	latest time.Duration // the end of the exchange at the latest; the tuple outlives it by lingerFor
	tries  int
	ask    Key // 0: not asked yet
	by     time.Duration
	pass   pass
	over   bool // answered or failed: counts no longer in the round
	end    time.Duration
	gone   bool // to be forgotten
}

// query is the exchange with a server that is not forgotten yet.
func (g *Guard) query(s *server) *query {
	for _, q := range g.queries {
		if q.srv == s {
			return q
		}
	}
	return nil
}

// ends is when the exchange is forgotten, at the latest.
func (q *query) ends() time.Duration {
	if q.over {
		return q.end
	}
	return q.latest + lingerFor
}

// begin plans an exchange with a server, due at a time.
func (g *Guard) begin(s *server, due time.Duration) {
	q := &query{srv: s, to: s.addr, token: g.spend(s), due: due, span: exchange, latest: max(due, g.now.Mono+comeUp) + exchange}
	if s.nts != nil {
		q.nts, q.cookie = g.spendCookie(s)
		q.place = g.network.place()
	}
	g.queries = append(g.queries, q)
}

// busy is when a server can be asked again, as far as exchanges with it are on
// their way. A key exchange that is over is in nobody's way.
func (g *Guard) busy(s *server) time.Duration {
	var t time.Duration
	for _, q := range g.queries {
		if q.srv == s && !(q.keys && q.over) {
			t = max(t, q.ends())
		}
	}
	return t
}

// advanceQueries moves the exchanges on.
func (g *Guard) advanceQueries() bool {
	changed := false
	for _, q := range g.queries {
		before := *q
		switch {
		case q.over:
			q.gone = g.due(q.end)
		case q.house == nil:
			g.findHouse(q)
		case q.ask == 0:
			g.prepare(q)
		default:
			g.watchAsk(q)
		}
		changed = changed || *q != before
	}
	n := len(g.queries)
	g.queries = slices.DeleteFunc(g.queries, func(q *query) bool { return q.gone })
	return changed || n != len(g.queries)
}

// findHouse gives a query the address that it is asked from.
func (g *Guard) findHouse(q *query) {
	if g.due(q.latest - q.span/2) {
		g.fail(q, "no room for another throw-away address")
		return
	}
	port := uint16(firstPort + g.rng.IntN(portsAbove))
	mode, room, _, _ := g.rotation()
	to := q.to.Addr()
	switch {
	case g.stableNow() || to.Is4() || mode == "off":
		from := g.host.Source4
		if to.Is6() {
			from = g.host.Source6
		}
		if !from.IsValid() {
			g.fail(q, "no route to its address family")
			return
		}
		q.house = g.stableAddress(q.to, from, port)
	default:
		if q.house = g.lasting(q, mode); q.house == nil {
			q.house = g.makeAddress(q.to, port, room)
		}
	}
	if q.house != nil {
		q.from = netip.AddrPortFrom(q.house.addr, port)
	}
}

// lasting is the address that a server was shown before, where it lives long
// enough for another exchange and, unless one serves for all, belongs to the same
// burst. A key exchange has an address of its own.
func (g *Guard) lasting(q *query, mode string) *address {
	for _, a := range g.addresses {
		if a.wished() && a.ready && a.until > q.latest+lingerFor && (mode == "server" && a.server.Addr() == q.to.Addr() ||
			a.server == q.to && !q.keys && g.now.Mono < a.made+burst) {
			return a
		}
	}
	return nil
}

// stableNow reports whether the admin's word for an impossible shield holds:
// ask from the stable address, without the guard.
func (g *Guard) stableNow() bool {
	return g.conf.IfImpossible == "ask-stable" && g.seenErr != nil && g.conf.Shield != rules.Off
}

// prepare waits for the gate to open and for the time to come.
func (g *Guard) prepare(q *query) {
	if q.house.kind == "throw-away" && q.house.phase >= leaving {
		g.retry(q)
		return
	}
	if g.due(q.latest - q.span/2) {
		g.neverReady(q)
		return
	}
	if !g.due(q.due) {
		return
	}
	by := min(g.now.Mono+q.span, q.latest)
	if q.pass = g.grant(q, by, g.host.Devices); !q.pass.granted {
		return
	}
	q.ask, q.by = g.key(), by
	if !q.keys {
		q.srv.asked, q.srv.reach, q.srv.failed = min(q.srv.asked+1, 1<<20), q.srv.reach<<1, ""
	}
	q.house.asked, q.house.askedIn = g.now.Wall.UTC(), true
	g.recordAddress(q.house, "")
}

// retry draws another interface ID after a collision or a loss.
func (g *Guard) retry(q *query) {
	if q.tries++; q.tries >= maxTries {
		g.restRotation(fmt.Sprintf("%d addresses in a row did not come up", q.tries))
		g.fail(q, "no throw-away address comes up")
		return
	}
	q.house, q.from = nil, netip.AddrPort{}
	q.latest = max(q.due, g.now.Mono+comeUp) + q.span
}

// neverReady ends a query whose gate did not open in time.
func (g *Guard) neverReady(q *query) {
	switch {
	case g.seenErr != nil:
		g.fail(q, "the shield cannot be put up: "+g.seenErr.Error())
	case !g.onDisk(q):
		g.fail(q, "the ledger cannot be written")
	case q.house.kind == "throw-away" && g.addrErr != nil:
		g.restRotation(g.addrErr.Error())
		g.fail(q, "its throw-away address could not be made: "+g.addrErr.Error())
	case q.house.kind == "throw-away" && g.stands(q.house.addr) && !g.seenReady[q.house.addr]:
		g.restRotation("an address was not ready in time")
		g.fail(q, "its throw-away address was not ready in time")
	default:
		g.fail(q, "the rules of its exposure were not seen in force in time")
	}
}

func (g *Guard) restRotation(why string) {
	g.round.noRotation = g.now.Mono + noRotation
	g.note(KindNotice, fmt.Sprintf("throw-away addresses rest for %s: %s", noRotation, why))
}

// watchAsk cancels an exchange that overran, or whose guard was lost.
func (g *Guard) watchAsk(q *query) {
	switch {
	case !g.grant(q, q.by, []string{g.host.Link.Name}).granted:
		g.fail(q, "the rules of its exposure were lost")
	case g.due(q.by + time.Second): // the adapter should have said so
		g.fail(q, "no answer")
	}
}

// fail ends a query without a sample, and closes its socket. Where it left already
// the tuple lingers: a late answer is no probe, and our reset of a TCP connection
// has yet to leave, without which the server would go on for minutes.
func (g *Guard) fail(q *query, why string) {
	q.over, q.end = true, g.now.Mono
	if q.ask != 0 {
		q.end += lingerFor
	}
	q.ask = 0
	if q.keys {
		g.keysFailed(q.srv, why)
		return
	}
	q.srv.failed = why
}

// asked is the exchange with a key that goes on; nil: there is none.
func (g *Guard) asked(k Key) *query {
	i := slices.IndexFunc(g.queries, func(q *query) bool { return q.ask != 0 && q.ask == k && !q.over })
	if i < 0 {
		return nil
	}
	return g.queries[i]
}

// answered ends an ask; the socket lingers.
func (g *Guard) answered(ev Answered) {
	q := g.asked(ev.Key)
	if q == nil || q.keys {
		return
	}
	q.over, q.end = true, g.now.Mono+lingerFor
	s := q.srv
	if s.nts != nil {
		ev.Err = g.protectedAnswer(s, ev)
	}
	switch {
	case ev.Kiss != "":
		g.kiss(s, ev.Kiss)
	case ev.Err != nil:
		s.failed = ev.Err.Error()
	default:
		s.reach |= 1
		s.sample, s.sampled, s.fresh = ev.Sample, true, true
		g.closeHood(s, g.now.Mono+g.conf.Hold)
	}
}

func (g *Guard) cancelQueries(s *server, why string) {
	for _, q := range g.queries {
		if q.srv == s && !q.over {
			g.fail(q, why)
		}
	}
}

func (g *Guard) planAsks() []Ask {
	var out []Ask
	for _, q := range g.queries {
		if q.ask != 0 && !q.keys {
			out = append(out, Ask{Key: q.ask, From: q.from, To: q.to, By: q.by, Device: g.deviceOf(q), NTS: q.nts, pass: q.pass})
		}
	}
	slices.SortFunc(out, func(a, b Ask) int { return int(a.Key) - int(b.Key) })
	return out
}

// deviceOf is the interface that an exchange is bound to: the configured one, for
// routes that prefer another would have the query leave there, from an address
// that is of no use there.
func (g *Guard) deviceOf(q *query) string {
	if g.conf.Interface == "" || q.house.kind != "throw-away" {
		return ""
	}
	return q.house.ifname
}
