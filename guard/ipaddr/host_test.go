package ipaddr_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/ipv6"

	"ntpveil/guard"
	"ntpveil/guard/ipaddr"
)

func (s *stack) host(prefer string) guard.Host {
	s.t.Helper()
	h, err := s.Host(prefer)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

func addrs(text string) (out []netip.Addr) {
	for _, f := range strings.Fields(text) {
		out = append(out, netip.MustParseAddr(f))
	}
	return out
}

func TestHostTellsFacts(t *testing.T) {
	w := newWire(t)
	w.host.ip("route add 203.0.113.0/24 proto static nexthop via 192.0.2.2 dev eth0 nexthop via 192.0.2.3 dev eth0")
	w.host.ip("-6 route add 2001:db8:7::/48 via 2001:db8:1::7 dev eth0 table 100")
	w.host.ip("-6 route add 2001:db8:5::/64 dev eth0")
	w.host.sysctl("ipv6/conf/eth0/max_addresses", "11")
	w.host.ip("link add name br0 type bridge")
	w.host.ip("link add port1 type veth peer name far1")
	w.host.ip("link set port1 master br0")
	s := w.host.open()
	a := w.throwAway(1)
	s.set(a)
	s.awaitReady(a.Addr)

	h := s.host("")
	linkLocal := slices.DeleteFunc(slices.Clone(h.LinkAddrs), func(a netip.Addr) bool { return !a.IsLinkLocalUnicast() })
	if len(linkLocal) != 1 {
		t.Errorf("link-local addresses %v", linkLocal)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "boot ID", h.BootID+"\n", string(boot))
	same(t, "link", h.Link, guard.Link{Index: w.link, Name: "eth0"})
	same(t, "addresses", h.Addrs, sorted(append(addrs("127.0.0.1 ::1 192.0.2.10"), stable, a.Addr, linkLocal[0])))
	same(t, "addresses of the link", h.LinkAddrs, sorted([]netip.Addr{stable, a.Addr, linkLocal[0]}))
	same(t, "preferred", h.Preferred, []netip.Addr{stable})
	same(t, "prefix", fmt.Sprint(h.Prefix, h.NoPrefix), prefix.String())
	same(t, "on link", fmt.Sprint(h.OnLink), "[192.0.2.0/24 2001:db8:1::/64 2001:db8:5::/64]")
	same(t, "sources", []netip.Addr{h.Source4, h.Source6}, addrs("192.0.2.10 2001:db8:1::10"))
	same(t, "gateways of the default routes", []netip.Addr{h.Gateway4, h.Gateway6}, addrs("192.0.2.1 fe80::1"))
	same(t, "default routes", []bool{h.Route4, h.Route6}, []bool{true, true})
	same(t, "gateways", h.Gateways, addrs("192.0.2.1 192.0.2.2 192.0.2.3 2001:db8:1::7 fe80::1"))
	same(t, "room", h.MaxAddrs, 11)
	same(t, "devices", h.Devices, []string{"br0", "eth0", "far1", "port1"})
}

func same(t *testing.T, what string, have, want any) {
	t.Helper()
	a, _ := json.Marshal(have)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("%s: %s, want %s", what, a, b)
	}
}

func sorted(list []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

func TestHostWithOnlyOursLeft(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	a := w.throwAway(1)
	s.set(a)
	s.awaitReady(a.Addr)
	w.host.ip("addr del " + stable.String() + "/64 dev eth0")
	h := s.host("")
	if h.Source6.IsValid() || len(h.Preferred) != 0 || h.Prefix.IsValid() {
		t.Errorf("source %s, preferred %v, prefix %s: ours was taken for the host's", h.Source6, h.Preferred, h.Prefix)
	}
	same(t, "reason", h.NoPrefix, "there is no preferred global IPv6 address on eth0")
}

func TestPrefix(t *testing.T) {
	for _, c := range []struct{ name, addrs, prefix, why string }{
		{"none", "", "", "there is no preferred global IPv6 address on eth0"},
		{"one of DHCPv6", "2001:db8:1::10/128", "", "eth0 has single IPv6 addresses only (/128, as DHCPv6 gives them)"},
		{"a hoster's /124", "2001:db8:1::10/124", "", "the IPv6 prefix on eth0 is a /124, not a /64"},
		{"unique local beside global", "fd00:1::10/64 2001:db8:1::10/64", "2001:db8:1::/64", ""},
		{"unique local alone", "fd00:1::10/64", "fd00:1::/64", ""},
		{"one that is deprecated beside another", "2001:db8:2::10/64 2001:db8:1::10/64,deprecated", "2001:db8:2::/64", ""},
		{"one of DHCPv6 beside an advertised", "2001:db8:1::10/64 2001:db8:1::77/128", "2001:db8:1::/64", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t)
			s := w.host.open()
			w.host.ip("addr del " + stable.String() + "/64 dev eth0")
			for _, a := range strings.Fields(c.addrs) {
				a, deprecated := strings.CutSuffix(a, ",deprecated")
				w.host.ip("addr add " + a + " dev eth0 nodad" + map[bool]string{true: " preferred_lft 0"}[deprecated])
			}
			h := s.host("")
			have := ""
			if h.Prefix.IsValid() {
				have = h.Prefix.String()
			}
			same(t, "prefix", []string{have, h.NoPrefix}, []string{c.prefix, c.why})
		})
	}
}

func TestUniqueLocalNeedsDefaultRoute(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	w.host.ip("addr del " + stable.String() + "/64 dev eth0")
	w.host.ip("addr add fd00:1::10/64 dev eth0 nodad")
	w.host.ip("-6 route del default")
	h := s.host("") // the link is that of the IPv4 route
	same(t, "prefix", []any{h.Link.Name, h.Route6, h.NoPrefix}, []any{"eth0", false, "eth0 has only the unique local prefix fd00:1::/64 and no default route"})
}

func TestLink(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	w.host.ip("link add eth1 type veth peer name far1")
	w.host.ip("link set eth1 up")
	w.host.ip("link set far1 up")
	w.host.ip("addr add 2001:db8:2::10/64 dev eth1 nodad")

	same(t, "by default", s.host("").Link.Name, "eth0")
	h := s.host("eth1")
	same(t, "as configured", []any{h.Link.Name, h.Prefix, h.Gateway6.IsValid()}, []any{"eth1", "2001:db8:2::/64", false})
	h = s.host("eth9")
	same(t, "configured, but absent", []any{h.Link.Index, h.NoPrefix}, []any{0, "there is no interface eth9"})
	w.host.ip("-6 route add default via 2001:db8:2::1 dev eth1 metric 10")
	h = s.host("")
	same(t, "of the lower metric", []any{h.Link.Name, h.Gateway6}, []any{"eth1", "2001:db8:2::1"})
	w.host.ip("-6 route flush default")
	w.host.ip("-6 route flush table main root default")
	w.host.ip("route del default")
	h = s.host("")
	same(t, "without any default route", []any{h.Link.Index, h.NoPrefix, h.Route4, h.Route6}, []any{0, "there is no default route", false, false})
}

func TestTunnelHasNoPrefix(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	w.host.ip("link add tun0 type veth peer name far0") // without neighbour discovery, as a tunnel is
	w.host.ip("link set tun0 up arp off")
	w.host.ip("link set far0 up")
	w.host.ip("addr add 2001:db8:3::10/64 dev tun0")
	w.host.ip("route add 0.0.0.0/1 dev tun0")
	h := s.host("tun0")
	same(t, "tunnel", []any{h.Link.Tunnel, h.NoPrefix}, []any{true, "tun0 is a tunnel or a point-to-point link"})
	if slices.Contains(h.OnLink, netip.MustParsePrefix("0.0.0.0/1")) {
		t.Error("half the internet is on link")
	}
	if s.host("far0").Link.Tunnel {
		t.Error("an Ethernet is no tunnel")
	}
}

// TestKernelCountsOurs shows what MaxAddrs and LinkAddrs are for: with as many
// addresses as the limit, ours among them, an advertised prefix gets none.
func TestKernelCountsOurs(t *testing.T) {
	w := newWire(t)
	w.host.sysctl("ipv6/conf/eth0/max_addresses", "4")
	s := w.host.open()
	s.set(w.throwAway(1), w.throwAway(2)) // beside the stable and the link-local one
	h := s.host("")
	same(t, "count", []int{len(h.LinkAddrs), h.MaxAddrs}, []int{4, 4})

	first := netip.MustParsePrefix("2001:db8:a::/64")
	w.advertise(first, netip.MustParsePrefix("2001:db8:b::/64"))
	s.await("the advertisement is worked through", func() bool {
		return slices.Contains(s.host("").OnLink, netip.MustParsePrefix("2001:db8:b::/64"))
	})
	for _, a := range s.host("").LinkAddrs {
		if first.Contains(a) {
			t.Errorf("%s was made beyond the limit", a)
		}
	}
	s.set()
	w.advertise(first)
	s.await("there is room again", func() bool {
		return slices.ContainsFunc(s.host("").LinkAddrs, first.Contains)
	})
}

// advertise sends a router advertisement (RFC 4861, section 4.2): hosts may make
// addresses in the first prefix; all are on link.
func (w *wire) advertise(prefixes ...netip.Prefix) {
	m := append([]byte{134, 0, 0, 0, 64, 0}, make([]byte, 10)...) // of a router that is no default router
	for i, p := range prefixes {
		flags := byte(0x80)
		if i == 0 {
			flags = 0xc0
		}
		option := append([]byte{3, 4, 64, flags, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0}, p.Addr().AsSlice()...)
		m = append(m, option...)
	}
	w.sendAll("fe80::1", m)
}

// sendAll sends a message from an address of the router to all nodes.
func (w *wire) sendAll(from string, m []byte) {
	w.router.in(func() error {
		raw, err := net.ListenPacket("ip6:58", from+"%lan0")
		if err != nil {
			return err
		}
		defer raw.Close()
		conn := ipv6.NewPacketConn(raw)
		if err := conn.SetMulticastHopLimit(255); err != nil {
			return err
		}
		_, err = raw.WriteTo(m, &net.IPAddr{IP: net.ParseIP("ff02::1"), Zone: "lan0"})
		return err
	})
}

func TestPeersOfSessions(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	var listeners []net.Listener
	w.router.ip("addr add 192.0.2.1/24 dev lan0")
	w.router.in(func() error {
		for _, at := range []string{"[2001:db8:1::1]:22", "192.0.2.1:22"} {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		return nil
	})
	var sessions []net.Conn
	w.host.in(func() error {
		for _, l := range listeners {
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			sessions = append(sessions, c)
		}
		return nil
	})
	same(t, "peers", s.host("").Peers, addrs("192.0.2.1 2001:db8:1::1"))
	w.host.in(func() error { // the files of /proc tell the same
		same(t, "listed peers", ipaddr.ListedPeers(), addrs("192.0.2.1 2001:db8:1::1"))
		return nil
	})
	for i := range sessions {
		sessions[i].Close()
		listeners[i].Close()
	}
}

func TestResolversOfFiles(t *testing.T) {
	s := newSpace(t)
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 192.0.2.53\nnameserver fe80::53%eth0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	stack, err := ipaddr.Open(ipaddr.Options{NS: s.fd, ResolvConf: []string{path, path, path + ".none"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	h, err := stack.Host("")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "resolvers", h.Resolvers, addrs("192.0.2.53 fe80::53"))
}

func TestWatchEndsWithItsContext(t *testing.T) {
	s := newSpace(t)
	stack, err := ipaddr.Open(ipaddr.Options{NS: s.fd})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := stack.Watch(ctx, cancel); err != nil { // it calls once at first
		t.Error(err)
	}
	if err := stack.Close(); err != nil {
		t.Error(err)
	}
	if err := stack.Watch(context.Background(), func() {}); err == nil || !strings.HasPrefix(err.Error(), "read changes") {
		t.Error("a closed stack can be watched")
	}
}

// TestHostNamesTimeServers: those of the link in use, not of another one, and those
// that hooks wrote.
func TestHostNamesTimeServers(t *testing.T) {
	w := newWire(t)
	networkd, drops := t.TempDir(), t.TempDir()
	real, err := ipaddr.Open(ipaddr.Options{NS: w.host.fd, ResolvConf: []string{}, Networkd: networkd, Drops: drops})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { real.Close() })
	read := func() guard.Host {
		h, err := real.Host("")
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	h := read()
	if len(h.NTP) > 0 || h.Link.Index == 0 {
		t.Fatalf("link %d, servers %v", h.Link.Index, h.NTP)
	}
	for path, text := range map[string]string{
		filepath.Join(networkd, fmt.Sprint(h.Link.Index)):   "ADMIN_STATE=configured\nNTP=192.0.2.123 ntp.example.org\n",
		filepath.Join(networkd, fmt.Sprint(h.Link.Index+1)): "NTP=192.0.2.124\n",
		filepath.Join(drops, "eth0.servers"):                "192.0.2.123\n2001:db8::123\n",
		filepath.Join(drops, "eth1.servers.tmp"):            "192.0.2.125\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "time servers", read().NTP, addrs("192.0.2.123 2001:db8::123"))
}
