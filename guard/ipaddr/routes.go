package ipaddr

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const maxGateways = 1024

// route is a unicast route of any table.
type route struct {
	to     netip.Prefix // of no bits: a default route
	table  int
	metric int
	hops   []hop // at least one
}

type hop struct {
	link    int
	gateway netip.Addr // invalid: what is routed is on the link
}

func (s *Stack) routes(family int) ([]route, error) {
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	raw, err := whole(func() ([]netlink.Route, error) {
		var out []netlink.Route
		err := s.handle.RouteListFilteredIter(family, every, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if r.Type == unix.RTN_UNICAST {
				out = append(out, r)
			}
			return true
		})
		return out, err
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	out := make([]route, 0, len(raw))
	for _, r := range raw {
		if x := convert(r); len(x.hops) > 0 && !x.to.Addr().IsMulticast() {
			out = append(out, x)
		}
	}
	return out, nil
}

func convert(r netlink.Route) route {
	x := route{to: unspecified(r.Family), table: r.Table, metric: r.Priority}
	if r.Dst != nil {
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		x.to = netip.PrefixFrom(a, bits)
	}
	add := func(link, flags int, gw net.IP, via netlink.Destination) {
		if flags&unix.RTNH_F_DEAD == 0 && link != 0 {
			x.hops = append(x.hops, hop{link, gateway(gw, via)})
		}
	}
	add(r.LinkIndex, r.Flags, r.Gw, r.Via)
	for _, n := range r.MultiPath {
		add(n.LinkIndex, n.Flags, n.Gw, n.Via)
	}
	return x
}

func unspecified(family int) netip.Prefix {
	if family == netlink.FAMILY_V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// gateway is the next hop, which may be of the other family (RFC 8950).
func gateway(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok && v != nil && len(gw) == 0 {
		gw = v.Addr
	}
	a, _ := netip.AddrFromSlice(gw)
	return a
}

// gateway is that of the first hop; invalid: none.
func (r *route) gateway() netip.Addr {
	if r == nil {
		return netip.Addr{}
	}
	return r.hops[0].gateway
}

// bestDefault is the default route of the main table with the lowest metric,
// over a link where one is given; nil: there is none.
func bestDefault(routes []route, link int) *route {
	var best *route
	for i := range routes {
		r := &routes[i]
		if r.to.Bits() != 0 || r.table != unix.RT_TABLE_MAIN || link != 0 && r.hops[0].link != link {
			continue
		}
		if best == nil || r.metric < best.metric {
			best = r
		}
	}
	return best
}

// gateways are those of every route.
func (f *facts) gateways() []netip.Addr {
	var out []netip.Addr
	for _, r := range slices.Concat(f.routes4, f.routes6) {
		for _, h := range r.hops {
			if h.gateway.IsValid() && !slices.Contains(out, h.gateway) && len(out) < maxGateways {
				out = append(out, h.gateway)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// onLink are the prefixes of addresses, and those that routes say are on a link.
// Of tunnels only the former: a tunnel's routes say what it carries, not who is
// near. Link-local ones need no mention.
func (f *facts) onLink() []netip.Prefix {
	tunnels := map[int]bool{}
	loopback := map[int]bool{}
	for _, l := range f.links {
		tunnels[l.index], loopback[l.index] = l.tunnel, l.loopback
	}
	seen := map[netip.Prefix]bool{}
	for _, e := range slices.Concat(f.addrs4, f.addrs6) {
		if !loopback[e.link] && e.bits < e.addr.BitLen() {
			seen[netip.PrefixFrom(e.addr, e.bits).Masked()] = true
		}
	}
	for _, r := range slices.Concat(f.routes4, f.routes6) {
		for _, h := range r.hops {
			if r.to.Bits() > 0 && !h.gateway.IsValid() && !tunnels[h.link] && !loopback[h.link] {
				seen[r.to.Masked()] = true
			}
		}
	}
	out := make([]netip.Prefix, 0, len(seen))
	for p := range seen {
		if !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
