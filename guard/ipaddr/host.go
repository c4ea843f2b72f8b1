package ipaddr

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// facts are what was read of the kernel, before the questions of the core are
// answered from it.
type facts struct {
	links   []link
	addrs4  []entry
	addrs6  []entry
	routes4 []route
	routes6 []route
	source4 netip.Addr
	source6 netip.Addr
	prefer  string // the configured interface, or empty
}

// Somewhere global that is on no link: asking the kernel for the route there
// tells its pick of a source. Nothing is ever sent to them.
var (
	elsewhere4 = netip.MustParseAddr("128.0.0.1")
	elsewhere6 = netip.MustParseAddr("2000::1")
)

// Host reads everything anew. prefer is the configured interface or empty.
func (s *Stack) Host(prefer string) (guard.Host, error) {
	f := facts{prefer: prefer}
	if err := s.read(&f); err != nil {
		return guard.Host{}, err
	}
	h := f.host()
	h.Resolvers = s.resolvers()
	err := s.inNamespace(func() error { return readProc(&h) })
	return h, err
}

func (s *Stack) read(f *facts) (err error) {
	if f.links, err = s.links(); err != nil {
		return err
	}
	if f.addrs4, err = s.listFamily(netlink.FAMILY_V4); err != nil {
		return err
	}
	if f.addrs6, err = s.listFamily(netlink.FAMILY_V6); err != nil {
		return err
	}
	if f.routes4, err = s.routes(netlink.FAMILY_V4); err != nil {
		return err
	}
	if f.routes6, err = s.routes(netlink.FAMILY_V6); err != nil {
		return err
	}
	f.source4, f.source6 = s.source(elsewhere4), s.source(elsewhere6)
	return nil
}

// source is the address that the kernel sends from towards another; invalid
// where there is no way.
func (s *Stack) source(to netip.Addr) netip.Addr {
	found, err := s.handle.RouteGet(net.IP(to.AsSlice()))
	if err != nil || len(found) == 0 {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(found[0].Src)
	if a = a.Unmap(); a.IsLinkLocalUnicast() || a.IsLoopback() {
		return netip.Addr{}
	}
	return a
}

// readProc adds what only /proc tells.
func readProc(h *guard.Host) (err error) {
	if h.BootID, err = readLine("/proc/sys/kernel/random/boot_id"); err != nil {
		return fmt.Errorf("read boot ID: %w", err)
	}
	h.Peers = peers()
	if h.Link.Index == 0 {
		return nil
	}
	h.Link.Wireless = wireless(h.Link)
	if text, err := readLine("/proc/sys/net/ipv6/conf/" + h.Link.Name + "/max_addresses"); err == nil { // absent: no IPv6
		h.MaxAddrs, _ = strconv.Atoi(text)
	}
	return nil
}

// host answers the questions of the core.
func (f *facts) host() guard.Host {
	route4, route6 := bestDefault(f.routes4, 0), bestDefault(f.routes6, 0)
	l, why := f.link(route4, route6)
	h := guard.Host{
		Link:     guard.Link{Index: l.index, Name: l.name, Tunnel: l.tunnel},
		OnLink:   f.onLink(),
		Source4:  f.source4,
		Source6:  f.stable(f.source6),
		Route4:   route4 != nil,
		Route6:   route6 != nil,
		Gateways: f.gateways(),
		Devices:  devices(f.links),
	}
	if f.prefer != "" && l.index != 0 {
		route6 = bestDefault(f.routes6, l.index)
		if r := bestDefault(f.routes4, l.index); r != nil {
			route4 = r
		}
	}
	h.Gateway4 = route4.gateway()
	if route6 != nil && route6.hops[0].link == l.index {
		h.Gateway6 = route6.gateway()
	}
	f.addresses(&h)
	h.Prefix, h.NoPrefix = f.prefix(l, why, h.Source6)
	return h
}

// link is the interface that queries leave by: the configured one, else that of
// the IPv6 default route, else that of the IPv4 one. Without one it says why.
func (f *facts) link(route4, route6 *route) (l link, why string) {
	if f.prefer != "" {
		if i := slices.IndexFunc(f.links, func(l link) bool { return l.name == f.prefer }); i >= 0 {
			return f.links[i], ""
		}
		return link{}, "there is no interface " + f.prefer
	}
	for _, r := range []*route{route6, route4} {
		if r == nil {
			continue
		}
		if i := slices.IndexFunc(f.links, func(l link) bool { return l.index == r.hops[0].link }); i >= 0 {
			return f.links[i], ""
		}
	}
	return link{}, "there is no default route"
}

func (f *facts) addresses(h *guard.Host) {
	for _, e := range slices.Concat(f.addrs4, f.addrs6) {
		h.Addrs = append(h.Addrs, e.addr)
		if e.link != h.Link.Index || !e.addr.Is6() {
			continue
		}
		h.LinkAddrs = append(h.LinkAddrs, e.addr)
		if e.preferredGlobal() {
			h.Preferred = append(h.Preferred, e.addr)
		}
	}
	for _, list := range [][]netip.Addr{h.Addrs, h.LinkAddrs, h.Preferred} {
		slices.SortFunc(list, netip.Addr.Compare)
	}
}

// preferredGlobal reports whether programs are given the address as a source
// before any of ours (RFC 6724, section 5, rule 3).
func (e entry) preferredGlobal() bool {
	return e.addr.Is6() && e.scope == unix.RT_SCOPE_UNIVERSE && !e.deprecated() && e.usable()
}

// stable leaves an address out that is of our shape: the kernel picks those when
// no other is left.
func (f *facts) stable(a netip.Addr) netip.Addr {
	if slices.ContainsFunc(f.addrs6, func(e entry) bool { return e.addr == a && e.throwAway() }) {
		return netip.Addr{}
	}
	return a
}
