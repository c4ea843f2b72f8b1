package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	lookupTime  = 10 * time.Second
	reresolve   = time.Hour           // for a replacement, at most so often (pool terms)
	refreshPool = 14 * 24 * time.Hour // pool names are asked anew, one server is replaced
	maxBackoff  = 15 * time.Minute    // of names that do not resolve
)

// source is a name that servers come from: a pool or a configured server.
type source struct {
	name    string
	pool    bool
	port    uint16
	literal netip.Addr // a configured address needs no look-up
	answers []netip.Addr
	turn    int           // which of the answers a configured server is asked at
	known   bool          // it answered once
	refresh time.Duration // when the pool is asked anew and one server replaced
	next    time.Duration // no look-up before
	want    bool          // a look-up is wanted as soon as next allows
	fails   int
	why     string // why the last look-up brought nothing
	job     Key
	by      time.Duration
	ring    *keyring // of a host of time.nts, else nil
}

// has reports whether a server is the one of a configured source.
func (o *source) has(s *server) bool {
	if o.pool || s.pool != "" || s.network || o.name != s.name || o.ring != s.nts {
		return false
	}
	return o.ring != nil || s.addr.Port() == o.port
}

// keepSources makes the sources match the configuration; those that stay keep
// what they know.
func (g *Guard) keepSources() {
	old := g.sources
	g.sources = nil
	add := func(s source) {
		for _, o := range old {
			if o.name == s.name && o.pool == s.pool && o.port == s.port && (o.ring == nil) == (s.ring == nil) {
				g.sources = append(g.sources, o)
				return
			}
		}
		s.want = !s.literal.IsValid()
		if s.literal.IsValid() {
			s.answers, s.known = []netip.Addr{s.literal}, true
		}
		g.sources = append(g.sources, &s)
	}
	for _, name := range g.conf.Pools {
		add(source{name: name, pool: true, port: 123})
	}
	for _, c := range g.conf.Servers {
		lit, _ := netip.ParseAddr(c.Host)
		add(source{name: c.Host, port: c.Port, literal: lit.Unmap()})
	}
	for _, c := range g.conf.NTS {
		lit, _ := netip.ParseAddr(c.Host)
		add(source{name: c.Host, port: c.Port, literal: lit.Unmap(), ring: &keyring{host: c.Host, port: c.Port}})
	}
	for _, s := range old {
		if s.ring != nil && !slices.Contains(g.sources, s) { // it may come back, and so may its cookies
			g.ledger.keys[s.ring.String()] = NTSRecord{Used: s.ring.used}
		}
	}
}

// advanceSources begins the look-ups that are wanted and due, and gives up
// those that overran.
func (g *Guard) advanceSources() bool {
	changed := false
	for _, s := range g.sources {
		if s.job != 0 && g.due(s.by) {
			s.fail(g, "no answer in time")
			changed = true
		}
		if s.pool && s.known && !s.want && s.job == 0 && g.due(s.refresh) {
			s.want, s.next, changed = true, g.now.Mono, true
			g.replaceOne(s.name)
			g.refreshed(s)
		}
		if g.orders.stopping() || !s.want || s.job != 0 || !g.network.usable() || !g.due(s.next) {
			continue
		}
		s.want, s.job, s.by, changed = false, g.key(), g.now.Mono+lookupTime, true
	}
	return changed
}

// resolved ends a look-up.
func (g *Guard) resolved(ev Resolved) {
	i := slices.IndexFunc(g.sources, func(s *source) bool { return s.job != 0 && s.job == ev.Key })
	if g.keysFound(ev) || i < 0 {
		return
	}
	s := g.sources[i]
	if ev.Err != nil {
		s.fail(g, ev.Err.Error())
		return
	}
	usables, refused := g.sift(s, ev.Addrs)
	if len(usables) == 0 {
		if refused == "" {
			refused = "no address"
		}
		s.fail(g, refused)
		return
	}
	if refused != "" {
		g.note(KindNotice, fmt.Sprintf("%s: %s", s.name, refused))
	}
	s.job, s.fails, s.why = 0, 0, ""
	s.answers, s.known, s.next = usables, true, g.now.Mono+reresolve
	if s.pool && s.refresh == 0 {
		g.refreshed(s)
	}
}

// refreshed begins the fortnight until a pool's next replacement.
func (g *Guard) refreshed(s *source) {
	s.refresh = g.now.Mono + g.jitter(refreshPool, 0.1)
	g.record(Record{Kind: KindPool, Pool: &PoolRecord{Name: s.name, Resolved: g.now.Wall.UTC()}})
}

// restorePool lets the fortnight of a pool go on across a restart.
func (g *Guard) restorePool(r PoolRecord) {
	for _, s := range g.sources {
		if s.pool && s.name == r.Name {
			s.refresh = max(min(g.mono(r.Resolved), g.now.Mono)+refreshPool, g.now.Mono+reresolve)
		}
	}
}

// again has a name looked up that may have another address by now, hourly at most.
func (s *source) again() bool {
	if s.want || s.job != 0 || s.literal.IsValid() {
		return false
	}
	s.want = true
	return true
}

// fail ends a look-up that brought nothing: tried again, ever more slowly.
func (s *source) fail(g *Guard, why string) {
	if s.why != why {
		g.note(KindNotice, fmt.Sprintf("resolve %s: %s", s.name, why))
	}
	s.job, s.why, s.want = 0, why, true
	s.fails = min(s.fails+1, 16)
	s.next = g.now.Mono + g.jitter(min(time.Second<<s.fails, maxBackoff), 0.1)
}

// sift keeps the answers that can be servers, and says why others cannot.
func (g *Guard) sift(s *source, addrs []netip.Addr) (kept []netip.Addr, refused string) {
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		if why := usable(a, g.conf.AllowPrivate, g.host.Addrs); why != "" {
			refused = fmt.Sprintf("answer %s refused: %s", a, why)
			continue
		}
		if len(kept) < maxCandidates && !slices.Contains(kept, a) {
			kept = append(kept, a)
		}
	}
	return kept, refused
}

func (g *Guard) planLookups() []Lookup {
	var out []Lookup
	for _, s := range g.sources {
		if s.job != 0 {
			out = append(out, Lookup{Key: s.job, Name: s.name, By: s.by})
		}
	}
	for _, s := range g.chosenOnes() {
		if s.nts != nil && s.nts.look != 0 {
			out = append(out, Lookup{Key: s.nts.look, Name: s.nts.lookName, By: s.nts.lookBy})
		}
	}
	return out
}

// settled reports whether every name had its first chance to answer.
func (g *Guard) settled() bool {
	for _, s := range g.sources {
		if !s.known && s.fails == 0 {
			return false
		}
	}
	return true
}
