package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard/selection"
)

// What promise 8 limits: every trigger draws from one bucket a /64.
const (
	bucketBurst = 4
	bucketEvery = 64 * time.Second
	maxRate     = 7 // RATE back-off: 64 s << 7 is the 2^13 s of RFC 8633 section 5.5.4
	denyFor     = 24 * time.Hour
	reachLost   = 8 // polls without an answer until a server is replaced
)

// server is somebody who is asked, or was.
type server struct {
	addr      netip.AddrPort
	name      string
	pool      string // empty: configured, or
	network   bool   // named by the network
	chosen    bool
	asked     int // since it was chosen
	reach     uint8
	lastAsk   time.Duration
	everAsked bool
	rate      int           // RATE back-off, an exponent
	denied    time.Duration // until then it is not asked
	sample    selection.Sample
	sampled   bool
	fresh     bool // the sample was not used for a judgement yet
	verdict   selection.Verdict
	judged    bool
	wrong     int           // syncs in a row in which a majority was against it
	shunned   time.Duration // until then no pool's place is given to it again, since it was outvoted
	failed    string        // why the last query brought nothing
	nts       *keyring      // nil: it is asked without protection; else never
}

// bucket bounds what a /64 is asked, whichever address we ask from.
type bucket struct {
	tokens float64
	at     time.Duration
}

// key64 is what a bucket stands for: the /64 of a server, the address of an IPv4 one.
func key64(a netip.Addr) netip.Prefix {
	if a = machine(a); a.Is4() {
		return netip.PrefixFrom(a, 32)
	}
	return masked(a, 64)
}

// spread is what servers are spread over: /48, and /16 for IPv4.
func spread(a netip.Addr) netip.Prefix {
	if a = machine(a); a.Is4() {
		return masked(a, 16)
	}
	return masked(a, 48)
}

// block is what answers collapse by: one machine has many addresses in it.
func block(a netip.Addr) netip.Prefix {
	if a = machine(a); a.Is4() {
		return masked(a, 24)
	}
	return masked(a, 64)
}

// machine is the address by which a server is near to others: behind NAT64 the IPv4
// address within, for all of these have one /64.
func machine(a netip.Addr) netip.Addr {
	if nat64.Contains(a) {
		a, _ = embedded(a)
	}
	return a
}

// masked never fails: bits are within the address by construction.
func masked(a netip.Addr, bits int) netip.Prefix {
	p, _ := a.Prefix(bits)
	return p
}

func (g *Guard) bucket(a netip.Addr) *bucket {
	k := key64(a)
	b := g.buckets[k]
	if b == nil {
		b = &bucket{tokens: bucketBurst, at: g.now.Mono}
		g.buckets[k] = b
	}
	return b
}

func (b *bucket) fill(now time.Duration) {
	b.tokens = min(bucketBurst, b.tokens+float64(now-b.at)/float64(bucketEvery))
	b.at = now
}

// ready is when the next token is there that so many others do not want.
func (b *bucket) ready(others int) time.Duration {
	want := float64(1 + others)
	if b.tokens >= want {
		return b.at
	}
	return b.at + time.Duration((want-b.tokens)*float64(bucketEvery)) + time.Millisecond
}

// allowed is the earliest time at which a server may be asked again, after so
// many others of its bucket.
func (g *Guard) allowed(s *server, others int) time.Duration {
	b := g.bucket(s.addr.Addr())
	b.fill(g.now.Mono)
	t := max(b.ready(others), s.denied)
	if s.rate > 0 && s.everAsked {
		t = max(t, s.lastAsk+bucketEvery<<s.rate)
	}
	return t
}

// spend takes a token; the query waits for the record of it, so that a restart
// does not forget it.
func (g *Guard) spend(s *server) Key {
	g.bucket(s.addr.Addr()).tokens--
	s.lastAsk, s.everAsked = g.now.Mono, true
	return g.recordServer(s, "")
}

// recordServer has the ledger keep a server as it is now. Text is for the
// journal; empty: the ledger alone.
func (g *Guard) recordServer(s *server, text string) Key {
	b := g.bucket(s.addr.Addr())
	r := &ServerRecord{Addr: s.addr, Name: s.name, Pool: s.pool, Chosen: s.chosen,
		Tokens: b.tokens, TokensAt: g.wall(b.at), Rate: s.rate}
	if s.denied > g.now.Mono {
		r.DeniedUntil = g.wall(s.denied)
	}
	return g.record(Record{Kind: KindServer, Text: text, Server: r})
}

// recordBuckets has the ledger keep all buckets by the wall clock as it is now:
// after a step the times that it has of them would give tokens away.
func (g *Guard) recordBuckets() {
	for _, s := range g.servers {
		g.recordServer(s, "")
	}
	for _, o := range g.sources {
		if o.ring != nil && o.ring.at.IsValid() {
			g.recordHost(o.ring)
		}
	}
}

// server is the one at an address that is asked without protection.
func (g *Guard) server(a netip.AddrPort) *server {
	for _, s := range g.servers {
		if s.addr == a && s.nts == nil {
			return s
		}
	}
	return nil
}

// chosenOnes are the servers that are asked.
func (g *Guard) chosenOnes() []*server {
	var out []*server
	for _, s := range g.servers {
		if s.chosen {
			out = append(out, s)
		}
	}
	return out
}

// routed reports whether the host has a way to a server's family.
func (g *Guard) routed(a netip.Addr) bool {
	if a.Is4() {
		return g.host.Source4.IsValid()
	}
	return g.host.Source6.IsValid()
}

// keepServers drops the places of servers that the configuration no longer names.
func (g *Guard) keepServers() {
	for _, s := range g.servers {
		if s.chosen && s.pool != "" && !slices.Contains(g.conf.Pools, s.pool) {
			g.unseat(s, "its pool is no longer configured")
		}
		if s.chosen && s.pool == "" && !s.network && !slices.ContainsFunc(g.sources, func(o *source) bool { return o.has(s) }) {
			g.unseat(s, "it is no longer configured")
		}
	}
	for pool := g.seated(); pool > g.places(); pool-- {
		for _, s := range slices.Backward(g.servers) {
			if s.chosen && s.pool != "" {
				g.unseat(s, "time.use is smaller now")
				break
			}
		}
	}
}

// places is how many servers the pools may fill: those of time.nts have theirs.
func (g *Guard) places() int { return max(g.conf.Use-len(g.conf.NTS), 0) }

// seated counts the pool's servers that have a place.
func (g *Guard) seated() int {
	n := 0
	for _, s := range g.servers {
		if s.chosen && s.pool != "" {
			n++
		}
	}
	return n
}

// choose fills the places: configured servers have one each, the rest comes
// from the pools. It replaces servers that are denied or stay away, if there is
// another to be had.
func (g *Guard) choose() bool {
	if g.orders.stopping() || !g.network.usable() {
		return false
	}
	changed := g.seatConfigured()
	changed = g.seatNetwork() || changed
	changed = g.replaceLost() || changed
	for g.seated() < g.places() && len(g.conf.Pools) > 0 {
		if !g.settled() && !g.due(g.started+3*time.Second) {
			break
		}
		s, pool := g.pick()
		if pool == nil {
			return g.askPools() || changed
		}
		g.seat(s, pool.name, pool.name, "", nil)
		changed = true
	}
	return changed
}

// seatConfigured gives each configured server its one place, at an answer of
// its name that the host can reach.
func (g *Guard) seatConfigured() bool {
	changed := false
	for _, o := range g.sources {
		if o.pool || len(o.answers) == 0 || slices.ContainsFunc(g.servers, func(s *server) bool { return s.chosen && o.has(s) }) {
			continue
		}
		switch {
		case o.ring != nil:
			g.seatKeyed(o)
		case !slices.ContainsFunc(o.answers, func(a netip.Addr) bool { return g.holder(o, a) == nil }):
			continue
		default:
			g.seat(netip.AddrPortFrom(g.answer(o), o.port), o.name, "", "", nil)
		}
		changed = true
	}
	return changed
}

// holder is the server of another configured name at an answer of a name; nil:
// there is none. A machine has one place, whoever leads to it.
func (g *Guard) holder(o *source, a netip.Addr) *server {
	if o.ring != nil {
		return nil
	}
	if s := g.server(netip.AddrPortFrom(a, o.port)); s != nil && s.chosen && s.pool == "" && !s.network && !o.has(s) {
		return s
	}
	return nil
}

// whyNoPlace is why a configured name that has answers has no server: all are held.
func (g *Guard) whyNoPlace(o *source) (why string) {
	if o.pool || slices.ContainsFunc(g.servers, func(s *server) bool { return s.chosen && o.has(s) }) {
		return ""
	}
	for _, a := range o.answers {
		s := g.holder(o, a)
		if s == nil {
			return ""
		}
		why = fmt.Sprintf("%s leads to %s, which is asked as %s already: a machine has one place", o.name, a, s.name)
	}
	return why
}

// answer is the one of a name's answers whose turn it is, of those that nobody
// else holds, and that the host can reach where there is one. IPv6 stands first.
func (g *Guard) answer(o *source) netip.Addr {
	var unreachable netip.Addr
	for i := range o.answers {
		switch a := o.answers[(o.turn+i)%len(o.answers)]; {
		case g.holder(o, a) != nil:
		case g.routed(a):
			return a
		case !unreachable.IsValid():
			unreachable = a
		}
	}
	return unreachable
}

// better is the turn of the next answer of a name that may serve where its server
// does not. Without one the server stays: two that both deny would follow each
// other without end.
func (g *Guard) better(o *source, s *server) (turn int, found bool) {
	for i := range o.answers {
		turn = o.turn + i + 1
		a := o.answers[turn%len(o.answers)]
		if a != s.home() && g.routed(a) && g.holder(o, a) == nil && !g.denies(a) {
			return turn, true
		}
	}
	return 0, false
}

// denies reports whether an address asked not to be asked.
func (g *Guard) denies(a netip.Addr) bool {
	return slices.ContainsFunc(g.servers, func(s *server) bool { return s.addr.Addr() == a && s.denied > g.now.Mono })
}

// pick is the best candidate of the pools that has no place: one a block, IPv6
// first, out of a prefix that no other comes from, else at random.
func (g *Guard) pick() (netip.AddrPort, *source) {
	var best netip.AddrPort
	var from *source
	bestScore := -1.0
	for _, o := range g.sources {
		if !o.pool {
			continue
		}
		for _, a := range o.answers {
			score := g.score(a)
			if score < 0 {
				continue
			}
			if score += g.rng.Float64(); score > bestScore {
				best, from, bestScore = netip.AddrPortFrom(a, o.port), o, score
			}
		}
	}
	return best, from
}

// score is negative for what cannot be chosen; its integer part ranks the rest.
func (g *Guard) score(a netip.Addr) float64 {
	if !g.routed(a) {
		return -1
	}
	score := 4.0
	if a.Is4() != g.deaf6() {
		score = 0
	}
	near := false
	for _, s := range g.servers {
		if !s.chosen && s.addr.Addr() == a && (!g.due(s.denied) || !g.due(s.shunned) || s.asked > 0 && s.reach == 0 && !g.due(s.lastAsk+shunFor)) {
			return -1 // it had its chance
		}
		if !s.chosen {
			continue
		}
		if block(s.addr.Addr()) == block(a) {
			return -1
		}
		near = near || spread(s.addr.Addr()) == spread(a)
	}
	if !near {
		score += 2
	}
	return score
}

// askPools has the pools resolved anew: at once if never, else hourly at most.
func (g *Guard) askPools() bool {
	changed := false
	for _, o := range g.sources {
		if o.pool && o.job == 0 && !o.want {
			o.want, changed = true, true
		}
	}
	return changed
}

func (g *Guard) seat(a netip.AddrPort, name, pool, why string, ring *keyring) {
	s := g.server(a)
	switch {
	case s == nil, ring != nil: // one that is asked without protection is nobody else's
		s = &server{addr: a, chosen: true} // and so is not forgotten right now
		g.servers = append(g.servers, s)
		g.forgetServers()
	}
	g.inherit(s)
	s.nts = ring
	s.name, s.pool, s.network, s.chosen, s.asked, s.reach, s.wrong = name, pool, false, true, 0, 0, 0
	text := fmt.Sprintf("server %s of %s chosen", a.Addr(), name)
	if why != "" {
		text += ": " + why
	}
	g.recordServer(s, text)
	if far := g.round.next > g.now.Mono+2*g.round.interval; far || g.round.next > g.now.Mono && g.clock.lastAgreed == 0 {
		g.syncSoon() // not enough servers so far
	}
}

func (g *Guard) unseat(s *server, why string) {
	s.chosen, s.fresh, s.judged = false, false, false
	g.cancelQueries(s, why)
	if s.nts != nil {
		g.dropKeys(s.nts)
	}
	g.recordServer(s, fmt.Sprintf("server %s loses its place: %s", s.addr.Addr(), why))
}

// forgetServers bounds the memory of servers without a place, the oldest first. Who
// set limits is remembered for longer: forgotten, it would be asked again.
func (g *Guard) forgetServers() {
	over, overLimited := -maxServers, -maxLimited
	count := func(s *server) *int {
		if g.limited(s) {
			return &overLimited
		}
		return &over
	}
	placeless := func(s *server) bool { return !s.chosen && g.query(s) == nil }
	for _, s := range g.servers {
		if placeless(s) {
			*count(s)++
		}
	}
	g.servers = slices.DeleteFunc(g.servers, func(s *server) bool {
		n := count(s)
		if !placeless(s) || *n <= 0 {
			return false
		}
		*n--
		return true
	})
	if len(g.buckets) <= 4*(maxServers+maxLimited) {
		return
	}
	for k, b := range g.buckets { // a full bucket is a new one: forgetting it loses nothing
		if b.fill(g.now.Mono); b.tokens >= bucketBurst {
			delete(g.buckets, k)
		}
	}
}

// limited reports whether a server is not to be asked for now, or more slowly.
func (g *Guard) limited(s *server) bool {
	return s.rate > 0 || s.denied > g.now.Mono || s.shunned > g.now.Mono
}

// kiss acts on a kiss-o'-death that carried our origin (RFC 5905 section 7.4).
func (g *Guard) kiss(s *server, code string) {
	switch selection.Kiss(code) {
	case selection.KissDeny:
		s.denied = g.now.Mono + denyFor
		g.recordServer(s, fmt.Sprintf("server %s denies service (%s): not asked for %s", s.addr.Addr(), code, denyFor))
	case selection.KissRate:
		s.rate = min(s.rate+1, maxRate)
		g.recordServer(s, fmt.Sprintf("server %s asks for a lower rate: asked every %s at most", s.addr.Addr(), bucketEvery<<s.rate))
	}
	s.failed = "kiss-o'-death " + code
}
