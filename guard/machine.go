package guard

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"ntpveil/guard/selection"
)

// A machine has one vote and one set of limits, whoever led us to it: a name, a
// pool, the network, or the word of a host of time.nts.

// keysFound ends the look-up of the server that a key exchange named; it reports
// whether the look-up was one.
func (g *Guard) keysFound(ev Resolved) bool {
	i := slices.IndexFunc(g.servers, func(s *server) bool { return s.nts != nil && s.nts.look != 0 && s.nts.look == ev.Key })
	if i < 0 {
		return false
	}
	s, r := g.servers[i], g.servers[i].nts
	for _, a := range ev.Addrs {
		if a = a.Unmap().WithZone(""); usable(a, g.conf.AllowPrivate, g.host.Addrs) == "" && g.routed(a) && a.Is4() == r.at.Addr().Is4() {
			r.look = 0
			g.useKeys(s, netip.AddrPortFrom(a, r.lookPort))
			return true
		}
	}
	g.refuseKeys(s, fmt.Sprintf("resolve %s: %v", r.lookName, cmp.Or(ev.Err, errors.New("no usable address"))))
	return true
}

// useKeys puts keys to use that were agreed on, for the server that the exchange
// named, unless that cannot be one, or answers for another host already.
func (g *Guard) useKeys(s *server, to netip.AddrPort) {
	r := s.nts
	if why := g.unfit(r, to.Addr()); why != "" {
		g.refuseKeys(s, fmt.Sprintf("it names the server %s: %s", to.Addr(), why))
		return
	}
	if to.Addr().Is4() != r.at.Addr().Is4() { // over IPv4 the stable address is seen, and cookies would tell whose the others are
		g.refuseKeys(s, fmt.Sprintf("it names the server %s, of another address family than its own", to.Addr()))
		return
	}
	if o := g.twin(s, to.Addr()); o != nil {
		g.refuseTwin(s, o, to)
		return
	}
	g.move(s, to)
	r.fails = min(r.fails+1, 16) // until they bring an answer
	r.why, r.next = "", g.now.Mono+max(keyRest, g.backoff(r.fails))
	g.recordKeys(r, to, fmt.Sprintf("keys agreed on with %s, for %s: %d cookies", r, to, len(r.cookies)))
	if g.clock.lastAgreed == 0 {
		g.syncSoon()
	}
}

// unfit says why a server that a key exchange named cannot be one. The host itself
// can: the admin wrote its address, or its name's answers were sifted.
func (g *Guard) unfit(r *keyring, a netip.Addr) string {
	if slices.ContainsFunc(g.sources, func(o *source) bool { return o.ring == r && slices.Contains(o.answers, a) }) {
		return ""
	}
	return usable(a, g.conf.AllowPrivate, g.host.Addrs)
}

// refuseTwin refuses keys for a server that answers for another host already.
func (g *Guard) refuseTwin(s, o *server, to netip.AddrPort) {
	g.refuseKeys(s, fmt.Sprintf("it names the server %s, which stands for %s already", to.Addr(), o.nts))
}

// twin is another host of time.nts that leads to an address and has proved that
// its keys are of use there; nil: there is none. Its word alone would let it keep
// us from the server of another host.
func (g *Guard) twin(s *server, to netip.Addr) *server {
	i := slices.IndexFunc(g.servers, func(o *server) bool { return o != s && o.proven() && o.addr.Addr() == to })
	if i < 0 {
		return nil
	}
	return g.servers[i]
}

// proven reports whether a server answered a query that the keys it has protect.
func (s *server) proven() bool { return s.chosen && s.nts != nil && s.nts.proven }

// voteless takes the votes of those that are asked without protection where a host
// of time.nts answered from the same address.
func (g *Guard) voteless() {
	for _, s := range g.servers {
		if !s.fresh || s.nts != nil {
			continue
		}
		if o := g.twin(s, s.addr.Addr()); o != nil && o.fresh {
			s.fresh, s.failed = false, fmt.Sprintf("its vote is that of %s (time.nts), which leads to the same address", o.nts)
		}
	}
}

// stripped is why a vote that was won is not believed: there are hosts of time.nts
// and none of them was among the winners. Whoever is on the way can keep all of them
// from us, and answer for everybody else (RFC 8915 section 8.7).
func (g *Guard) stripped(res selection.Result, from []*server) string {
	if !res.Agreed || len(g.conf.NTS) == 0 {
		return ""
	}
	for i, s := range from {
		if v := res.Verdicts[i].State; s.nts != nil && (v == selection.Selected || v == selection.Apart) {
			return ""
		}
	}
	return "no host of time.nts is among those that agree: the others are not believed without one"
}

// besideHost reports whether a pool's server is out of the block that a host of
// time.nts leads to: pick would not have chosen it.
func (g *Guard) besideHost(s *server) bool {
	return s.pool != "" && slices.ContainsFunc(g.servers, func(o *server) bool {
		return o.proven() && block(o.addr.Addr()) == block(s.addr.Addr())
	})
}

// inherit takes over what a server once said of its limits, whatever it was asked for.
func (g *Guard) inherit(s *server) {
	for _, o := range g.servers {
		if o != s && o.addr == s.addr {
			s.rate, s.denied = max(s.rate, o.rate), max(s.denied, o.denied)
			s.lastAsk, s.everAsked = max(s.lastAsk, o.lastAsk), s.everAsked || o.everAsked
		}
	}
}

// home is the answer of its name that a server is at: of a host of time.nts, where
// keys are exchanged.
func (s *server) home() netip.Addr {
	if s.nts != nil {
		return s.nts.at.Addr()
	}
	return s.addr.Addr()
}

// move has a server stand for another address.
func (g *Guard) move(s *server, to netip.AddrPort) {
	if s.addr == to {
		return
	}
	s.addr, s.asked, s.reach, s.sampled, s.fresh, s.judged = to, 0, 0, false, false, false
	g.inherit(s)
}
