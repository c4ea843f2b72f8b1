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
	to   netip.Prefix // of no bits: a default route
	hops []hop        // at least one
}

type hop struct {
	link    int
	gateway netip.Addr // invalid: what is routed is on the link
}

// routes are those of all tables that tell something: a router has a million of
// them by a few gateways, which took 1.4 GiB when all were kept.
func (s *Stack) routes(family int) ([]route, error) {
	every := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	out, err := whole(func() ([]route, error) {
		telling := telling{}
		err := s.handle.RouteListFilteredIter(family, every, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			if r.Type == unix.RTN_UNICAST {
				telling.add(convert(r))
			}
			return true
		})
		return telling.routes, err
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return out, nil
}

// telling keeps the routes that say who is on a link, and of the others one for
// each gateway.
type telling struct {
	routes []route
	known  map[netip.Addr]bool
}

func (t *telling) add(r route) {
	if r.to.Addr().IsMulticast() || !slices.ContainsFunc(r.hops, t.isNews) {
		return
	}
	if t.known == nil {
		t.known = map[netip.Addr]bool{}
	}
	for _, h := range r.hops {
		t.known[h.gateway] = true
	}
	t.routes = append(t.routes, r)
}

func (t *telling) isNews(h hop) bool {
	return !h.gateway.IsValid() || !t.known[h.gateway] && len(t.known) <= maxGateways
}

func convert(r netlink.Route) route {
	x := route{to: unspecified(r.Family)}
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
