package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ntpveil/rules"
)

// hood is a server's neighbourhood, closed until a time. Which prefix that is
// follows from the host's facts at every plan.
type hood struct {
	server netip.Addr
	until  time.Duration
	said   string // what was last said about narrowing or skipping it
}

// The prefix lengths that a neighbourhood may have: the preset's, and these where
// it is narrowed.
var (
	narrower4 = []int{24, 28, 32}
	narrower6 = []int{48, 56, 64, 128}
	nat64     = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
)

// neighbourhood is the prefix to close around a server: invalid where it has
// none, with the reason, or with a word on why it is narrower than the default.
func (g *Guard) neighbourhood(s *server) (p netip.Prefix, said string) {
	a := s.addr.Addr()
	if s.pool == "" || local(a) || g.conf.Shield == rules.Off {
		return netip.Prefix{}, ""
	}
	var blame string
	for _, n := range g.prefixLengths(a) {
		p := masked(a, n)
		why := g.contains(p)
		if why == "" {
			if blame != "" {
				said = fmt.Sprintf("neighbourhood of %s narrowed to %s: the wider one contains %s", a, p, blame)
			}
			return p, said
		}
		blame = why
	}
	return netip.Prefix{}, fmt.Sprintf("neighbourhood of %s not closed: it contains %s", a, blame)
}

// prefixLengths are widest first. In a NAT64 address they are those of the embedded
// IPv4 one.
func (g *Guard) prefixLengths(a netip.Addr) []int {
	four, six := g.conf.Choices.Lengths()
	switch {
	case a.Is4():
		return from(four, narrower4, 0)
	case nat64.Contains(a):
		return from(four, narrower4, 96)
	}
	return from(six, narrower6, 0)
}

// from are a length and those beyond it, each more by what stands before.
func from(widest int, narrower []int, before int) []int {
	out := []int{before + widest}
	for _, n := range narrower {
		if n > widest {
			out = append(out, before+n)
		}
	}
	return out
}

// local addresses have no neighbourhood: private, ULA, link-local and shared
// ones (RFC 6598) are somebody's own network.
func local(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback() || sharedSpace.Contains(a)
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// contains names the first thing of the host's own in a prefix.
func (g *Guard) contains(p netip.Prefix) string {
	h := g.host
	for _, group := range []struct {
		what  string
		addrs []netip.Addr
	}{
		{"our own address", h.Addrs}, {"the gateway", h.Gateways}, {"the resolver", h.Resolvers}, {"the peer of an open session,", h.Peers},
	} {
		for _, a := range group.addrs {
			if p.Contains(a) && g.address(a) == nil {
				return group.what + " " + a.String()
			}
		}
	}
	for _, q := range h.OnLink {
		if p.Overlaps(q) {
			return "the on-link prefix " + q.String()
		}
	}
	for _, q := range g.conf.Trusted {
		if p.Overlaps(q) {
			return "the trusted prefix " + q.String()
		}
	}
	return ""
}

// closeHood keeps a server's neighbourhood closed until a time at least.
func (g *Guard) closeHood(s *server, until time.Duration) {
	if s.pool == "" {
		return
	}
	for _, h := range g.hoods {
		if h.server == s.addr.Addr() {
			h.until = max(h.until, until)
			return
		}
	}
	g.hoods = append(g.hoods, &hood{server: s.addr.Addr(), until: until})
	if len(g.hoods) > maxHoods {
		g.hoods = slices.Delete(g.hoods, 0, 1)
	}
}

// advanceHoods closes the neighbourhood of everybody who is about to be asked,
// forgets what is over, and says what is narrowed or skipped.
func (g *Guard) advanceHoods() bool {
	for _, q := range g.queries {
		if !q.over && q.house != nil {
			g.closeHood(q.srv, q.latest+lingerFor+hoodAhead)
		}
	}
	n := len(g.hoods)
	g.hoods = slices.DeleteFunc(g.hoods, func(h *hood) bool { return g.due(h.until) })
	for _, h := range g.hoods {
		if _, said := g.hoodPrefix(h); said != h.said {
			h.said = said
			if said != "" {
				g.note(KindNotice, said)
			}
		}
	}
	return n != len(g.hoods)
}

func (g *Guard) hoodPrefix(h *hood) (netip.Prefix, string) {
	for _, s := range g.servers {
		if s.addr.Addr() == h.server && s.pool != "" {
			return g.neighbourhood(s)
		}
	}
	return netip.Prefix{}, ""
}

func (g *Guard) planHoods() []rules.Hood {
	var out []rules.Hood
	for _, h := range g.hoods {
		p, _ := g.hoodPrefix(h)
		if !p.IsValid() {
			continue
		}
		if i := slices.IndexFunc(out, func(x rules.Hood) bool { return x.Prefix == p }); i >= 0 {
			out[i].Until = max(out[i].Until, h.until)
			continue
		}
		out = append(out, rules.Hood{Prefix: p, Server: h.server, Until: h.until})
	}
	slices.SortFunc(out, func(a, b rules.Hood) int { return strings.Compare(a.Prefix.String(), b.Prefix.String()) })
	return out
}
