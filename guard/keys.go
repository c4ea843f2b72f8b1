package guard

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	keyTime    = 8 * time.Second // a key exchange that takes longer is given up
	keyLife    = 24 * time.Hour  // keys are exchanged anew
	keyRest    = 10 * time.Minute
	keyBackoff = time.Hour // after failures, at most so often
	firstKeys  = 15 * time.Second
	wholePool  = 8  // cookies (RFC 8915 section 5.7)
	manyNAKs   = 3  // in a row, each of a poll without an answer: only then are they a reason
	usedUp     = 64 // cookies that are remembered as used
	certSlack  = time.Minute
)

// keyring is what is known of a host of time.nts: its keys, its cookies, and how
// the key exchanges with it go. Both ends of a cookie's life are on disk before
// anybody sees it: that it was given, and that it is used.
type keyring struct {
	host    string // as configured
	port    uint16
	at      netip.AddrPort // where keys are exchanged
	keys    NTSKeys
	cookies []Secret
	used    []uint64 // cookies that were used (mark), the oldest first
	made    time.Duration
	place   string // the network in which they were got
	proven  bool   // these keys brought an answer
	naks    int
	fails   int           // exchanges since the last one whose keys brought an answer (RFC 8915 section 4.2)
	next    time.Duration // no exchange before
	why     string        // why there are no keys

	look     Key // a look-up of the server that the exchange named
	lookBy   time.Duration
	lookName string
	lookPort uint16
}

// name is what the certificate is to be of.
func (r *keyring) name() string { return strings.TrimSuffix(r.host, ".") }

func (r *keyring) String() string { return fmt.Sprintf("%s:%d", r.host, r.port) }

// place is what a cookie is bound to: used from another network, it would tell
// that both hosts are one. A temporary IPv6 address of the host's own makes no
// other network.
func (n network) place() string {
	return fmt.Sprintf("%s by %s, %s by %s", n.prefix, n.gw6, n.source4, n.gw4)
}

// leaveNetwork drops every cookie of another network, those on their way too.
func (g *Guard) leaveNetwork() {
	here := g.network.place()
	for _, q := range g.queries {
		if q.srv.nts != nil && !q.over && q.place != here {
			g.fail(q, "the network changed")
		}
	}
	for _, s := range g.servers {
		if s.nts != nil && s.nts.place != here {
			g.dropKeys(s.nts)
			s.nts.next = min(s.nts.next, g.now.Mono)
		}
	}
}

// dropKeys forgets keys and cookies, on disk too.
func (g *Guard) dropKeys(r *keyring) {
	r.look = 0
	if len(r.cookies) > 0 {
		r.keys, r.cookies, r.proven = NTSKeys{}, nil, false
		g.recordKeys(r, netip.AddrPort{}, "")
	}
}

// ready reports whether a query can be protected.
func (r *keyring) ready() bool { return len(r.cookies) > 0 && r.look == 0 }

// recordKeys has the ledger keep a keyring.
func (g *Guard) recordKeys(r *keyring, server netip.AddrPort, text string) Key {
	return g.record(Record{Kind: KindKeys, Text: text, NTS: &NTSRecord{Name: r.String(), Server: server, At: r.at,
		Keys: r.keys, Cookies: slices.Clone(r.cookies), Used: slices.Clone(r.used), Made: g.wall(r.made), Place: r.place}})
}

// restoreKeys takes what the ledger has of a host, where it still holds. It
// returns the server to ask, invalid where there is nothing.
func (g *Guard) restoreKeys(r *keyring) netip.AddrPort {
	x, found := g.ledger.keys[r.String()]
	delete(g.ledger.keys, r.String())
	made := min(g.mono(x.Made), g.now.Mono)
	r.used = append(r.used, x.Used[:min(len(x.Used), usedUp)]...)
	if !found || x.Place != g.network.place() || len(x.Cookies) == 0 || made+keyLife < g.now.Mono || !x.At.IsValid() {
		return netip.AddrPort{}
	}
	if g.unfit(r, x.Server.Addr()) != "" {
		return netip.AddrPort{}
	}
	r.at, r.keys, r.made, r.place = x.At, x.Keys, made, x.Place
	r.cookies = slices.Clone(x.Cookies[:min(len(x.Cookies), wholePool)])
	r.next = g.now.Mono + keyRest
	return x.Server
}

// spendCookie takes a cookie, and how many are wanted back. The query waits for
// the record of it: a restart must not use it again.
func (g *Guard) spendCookie(s *server) (*NTS, Key) {
	r := s.nts
	n := &NTS{Keys: r.keys, Cookie: r.cookies[0], Want: wholePool - len(r.cookies) + 1}
	r.cookies = r.cookies[1:]
	if r.used = append(r.used, mark(n.Cookie)); len(r.used) > usedUp {
		r.used = r.used[1:]
	}
	return n, g.recordKeys(r, s.addr, "")
}

// mark is what is remembered of a cookie that was used.
func mark(c Secret) uint64 {
	sum := sha256.Sum256(c)
	return binary.BigEndian.Uint64(sum[:])
}

// stock adds cookies that were never used and are not there yet.
func (r *keyring) stock(cookies []Secret) {
	for _, c := range cookies {
		twice := slices.ContainsFunc(r.cookies, func(o Secret) bool { return slices.Equal(c, o) })
		if !twice && len(r.cookies) < wholePool && !slices.Contains(r.used, mark(c)) {
			r.cookies = append(r.cookies, c)
		}
	}
}

// protectedAnswer takes what an answer to a protected query brings besides the
// time, or says why that is not to be believed.
func (g *Guard) protectedAnswer(s *server, ev Answered) error {
	r := s.nts
	if o := g.twin(s, s.addr.Addr()); o != nil {
		g.refuseTwin(s, o, s.addr)
		return errors.New(r.why)
	}
	switch {
	case ev.Err == nil || len(ev.Cookies) > 0: // it was authentic
		r.naks, r.fails, r.proven = 0, 0, true
		r.stock(ev.Cookies)
		g.recordKeys(r, s.addr, "")
	case ev.NAK:
		r.naks++
	}
	if ev.Err == nil && ev.Kiss == "" {
		return r.outside(g.wall(ev.Sample.At).Add(ev.Sample.Offset))
	}
	return ev.Err
}

// outside says why a protected server's time cannot be: it lies outside the
// validity of the certificate that its keys were made under (RFC 8915 section 8.5).
func (r *keyring) outside(at time.Time) error {
	if at.Before(r.keys.NotBefore.Add(-certSlack)) || at.After(r.keys.NotAfter.Add(keyLife+certSlack)) {
		return errors.New("its time lies outside the validity of its certificate")
	}
	return nil
}

// advanceKeys begins the key exchanges that are due, outside of syncs, and ends
// look-ups that overran.
func (g *Guard) advanceKeys() bool {
	changed := false
	for _, s := range g.chosenOnes() {
		r := s.nts
		if r == nil {
			continue
		}
		if r.look != 0 && g.due(r.lookBy) {
			g.refuseKeys(s, fmt.Sprintf("resolve %s: no answer in time", r.lookName))
			changed = true
		}
		if g.wantsKeys(s) && g.mayKey(s) {
			r.naks = 0
			g.queries = append(g.queries, &query{srv: s, to: r.at, keys: true, token: g.spendAt(r), due: g.now.Mono,
				place: g.network.place(), span: keyTime, latest: g.now.Mono + comeUp + keyTime})
			changed = true
		}
	}
	return changed
}

// wantsKeys reports whether a server needs keys: at once where it can be asked no
// more, else between two syncs.
func (g *Guard) wantsKeys(s *server) bool {
	r := s.nts
	if r.look != 0 || g.keying(s) {
		return false
	}
	if len(r.cookies) == 0 {
		return true
	}
	old := g.due(r.made + keyLife)
	return (old || r.naks >= manyNAKs) && !g.round.active && g.round.next > g.now.Mono+comeUp+ahead
}

// mayKey reports whether a key exchange may begin now.
func (g *Guard) mayKey(s *server) bool {
	if g.orders.stopping() || !g.network.usable() || g.futile() != "" || !g.routed(s.nts.at.Addr()) || g.busy(s) > g.now.Mono {
		return false
	}
	b := g.bucket(s.nts.at.Addr())
	b.fill(g.now.Mono)
	return g.due(max(s.nts.next, b.ready(0), s.denied))
}

// keying reports whether a key exchange with a server is on its way.
func (g *Guard) keying(s *server) bool {
	return slices.ContainsFunc(g.queries, func(q *query) bool { return q.srv == s && q.keys && !q.over })
}

// spendAt takes a token for a key exchange, from the bucket of whom it is with.
func (g *Guard) spendAt(r *keyring) Key {
	b := g.bucket(r.at.Addr())
	b.fill(g.now.Mono)
	b.tokens--
	return g.recordHost(r)
}

// recordHost has the ledger keep the bucket of whom keys are exchanged with.
func (g *Guard) recordHost(r *keyring) Key {
	b := g.bucket(r.at.Addr())
	return g.record(Record{Kind: KindServer, Server: &ServerRecord{Addr: r.at, Name: r.host, Tokens: b.tokens, TokensAt: g.wall(b.at)}})
}

// keyed ends a key exchange.
func (g *Guard) keyed(ev Keyed) {
	q := g.asked(ev.Key)
	if q == nil || !q.keys {
		return
	}
	q.over, q.end = true, g.now.Mono+lingerFor
	s, r := q.srv, q.srv.nts
	if ev.Err != nil {
		g.keysFailed(s, ev.Err.Error())
		return
	}
	r.keys, r.cookies, r.proven, r.made, r.place, r.naks = ev.Keys, nil, false, g.now.Mono, q.place, 0
	r.stock(ev.Cookies)
	if len(r.cookies) == 0 {
		g.refuseKeys(s, "no cookie that was not used before")
		return
	}
	switch addr, err := netip.ParseAddr(ev.Host); {
	case ev.Host == "" || strings.EqualFold(ev.Host, r.name()):
		g.useKeys(s, netip.AddrPortFrom(r.at.Addr(), ev.Port))
	case err == nil:
		g.useKeys(s, netip.AddrPortFrom(addr, ev.Port))
	default:
		r.look, r.lookBy, r.lookName, r.lookPort = g.key(), g.now.Mono+lookupTime, ev.Host, ev.Port
	}
}

// backoff is how long after so many failures no key exchange is made.
func (g *Guard) backoff(fails int) time.Duration {
	return g.jitter(min(bucketEvery<<(min(max(fails, 1), 7)-1), keyBackoff), 0.1)
}

// keysFailed ends a key exchange that brought nothing. Old keys hold on. Where none
// is left the next one is made with another address of the name, if there is one.
func (g *Guard) keysFailed(s *server, why string) {
	r := s.nts
	if r.why != why && !g.orders.stopping() {
		g.note(KindNotice, fmt.Sprintf("no keys of %s: %s", r, why))
	}
	r.fails = min(r.fails+1, 16)
	r.why, r.next = why, g.now.Mono+g.backoff(r.fails)
	for _, o := range g.sources {
		if o.has(s) && len(r.cookies) == 0 {
			g.turnHost(o, s)
		}
	}
}

// turnHost has keys exchanged at the next address of a host. It may be another one
// than it was, or than it was for the run that left the keys: its name is looked up
// again, hourly at most.
func (g *Guard) turnHost(o *source, s *server) {
	if len(o.answers) > 1 {
		o.turn++
	}
	o.again()
	s.nts.at, s.nts.proven = netip.AddrPortFrom(g.answer(o), o.port), false
	g.move(s, netip.AddrPortFrom(s.nts.at.Addr(), 123))
}

// refuseKeys is keysFailed for keys that were got and are of no use.
func (g *Guard) refuseKeys(s *server, why string) {
	g.dropKeys(s.nts)
	g.keysFailed(s, why)
}

// seatKeyed gives a host of time.nts its place: at the server that the run before
// this one agreed on, or at the host itself until a key exchange says otherwise.
func (g *Guard) seatKeyed(o *source) {
	to := g.restoreKeys(o.ring)
	if !to.IsValid() {
		g.dropKeys(o.ring)
		o.ring.at = netip.AddrPortFrom(g.answer(o), o.port)
		to = netip.AddrPortFrom(o.ring.at.Addr(), 123)
	}
	g.seat(to, o.name, "", "", o.ring)
}

// awaitsKeys reports whether servers are about to have their first keys.
func (g *Guard) awaitsKeys() bool {
	return slices.ContainsFunc(g.chosenOnes(), func(s *server) bool { return s.nts != nil && !s.nts.ready() && s.nts.fails == 0 })
}

// keyless reports whether every server still lacks keys: there is nobody to ask.
func (g *Guard) keyless() bool {
	return !slices.ContainsFunc(g.chosenOnes(), func(s *server) bool { return s.nts == nil || s.nts.ready() })
}

// whyNoKeys is why a server of time.nts cannot be asked, empty where one can.
func (g *Guard) whyNoKeys(s *server) string {
	switch {
	case s.nts == nil || s.nts.ready():
		return ""
	case s.nts.why != "":
		return fmt.Sprintf("no keys of %s: %s", s.nts, s.nts.why)
	}
	return fmt.Sprintf("keys are yet to be exchanged with %s", s.nts)
}

// whyKeyless is why there is nobody to ask, where keys are what is lacking.
func (g *Guard) whyKeyless() string {
	if all := g.chosenOnes(); len(all) > 0 && g.keyless() {
		return g.whyNoKeys(all[0])
	}
	return ""
}

// certainlyPast is what certificates are judged by in place of a clock that is
// certainly wrong; zero where it is not.
func (g *Guard) certainlyPast() time.Time {
	if g.saved.dead || g.now.Wall.Before(g.saved.floor) {
		return g.saved.floor
	}
	return time.Time{}
}

func (g *Guard) planKeyings() []Keying {
	var out []Keying
	for _, q := range g.queries {
		if q.ask != 0 && q.keys {
			out = append(out, Keying{Key: q.ask, From: q.from, To: q.to, Name: q.srv.nts.name(), By: q.by,
				Floor: g.certainlyPast(), Device: g.deviceOf(q), pass: q.pass})
		}
	}
	slices.SortFunc(out, func(a, b Keying) int { return cmp.Compare(a.Key, b.Key) })
	return out
}
