package ipaddr

import (
	"fmt"
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
	way4    way // to the internet
	way6    way
	over4   way // the same by the configured interface
	over6   way
	prefer  string // the configured interface, or empty
}

// Host reads everything anew. prefer is the configured interface or empty.
func (s *Stack) Host(prefer string) (guard.Host, error) {
	f := facts{prefer: prefer}
	if err := s.read(&f); err != nil {
		return guard.Host{}, err
	}
	h := f.host()
	h.Resolvers = s.resolvers()
	h.NTP = s.timeServers(h.Link.Index)
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
	f.way4, f.way6 = s.way(elsewhere4, ""), s.way(elsewhere6, "")
	f.over4, f.over6 = f.way4, f.way6
	if f.prefer != "" {
		f.over4, f.over6 = s.way(elsewhere4, f.prefer), s.way(elsewhere6, f.prefer)
	}
	return nil
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
	l, why := f.link()
	h := guard.Host{
		Link:     guard.Link{Index: l.index, Name: l.name, Tunnel: l.tunnel},
		OnLink:   f.onLink(),
		Source4:  f.way4.source,
		Source6:  f.stable(f.way6.source),
		Gateway4: f.over4.gateway,
		Route4:   f.way4.link != 0,
		Route6:   f.way6.link != 0,
		Gateways: f.gateways(),
		Devices:  devices(f.links),
	}
	if f.over6.link == l.index {
		h.Gateway6 = f.over6.gateway
	}
	f.addresses(&h)
	h.Prefix, h.NoPrefix = f.prefix(l, why, h.Source6)
	return h
}

// link is the interface that queries leave by: the configured one, else that
// towards the internet by IPv6, else that by IPv4. Without one it says why.
func (f *facts) link() (l link, why string) {
	if f.prefer != "" {
		if i := slices.IndexFunc(f.links, func(l link) bool { return l.name == f.prefer }); i >= 0 {
			return f.links[i], ""
		}
		return link{}, "there is no interface " + f.prefer
	}
	for _, w := range []way{f.way6, f.way4} {
		if i := slices.IndexFunc(f.links, func(l link) bool { return w.link != 0 && l.index == w.link }); i >= 0 {
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
