package ipaddr_test

import (
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard"
)

// TestLinkIsTheOneThatPacketsTake, whatever the default routes say: a tunnel for
// everything takes two halves that are more specific, or a table of its own.
// Throw-away addresses of the link behind it would be sent into the tunnel, which
// lets its own address alone through.
func TestLinkIsTheOneThatPacketsTake(t *testing.T) {
	for _, c := range []struct {
		name string
		up   []string
	}{
		{"two halves", []string{"-6 route add ::/1 dev tun0", "-6 route add 8000::/1 dev tun0", "route add 0.0.0.0/1 dev tun0", "route add 128.0.0.0/1 dev tun0"}},
		{"a table of its own", []string{"-6 route add default dev tun0 table 51820", "-6 rule add not fwmark 51820 table 51820",
			"route add default dev tun0 table 51820", "rule add not fwmark 51820 table 51820"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t)
			s := w.host.open()
			w.host.ip("link add tun0 type veth peer name far0") // without neighbour discovery, as a tunnel is
			w.host.ip("link set tun0 up arp off")
			w.host.ip("link set far0 up")
			w.host.ip("addr add 2001:db8:3::10/128 dev tun0 nodad")
			w.host.ip("addr add 10.9.0.2/32 dev tun0")
			for _, args := range c.up {
				w.host.ip(args)
			}
			h := s.host("")
			same(t, "link", h.Link, guard.Link{Index: w.host.link("tun0"), Name: "tun0", Tunnel: true})
			same(t, "sources", []any{h.Source4, h.Source6}, []any{"10.9.0.2", "2001:db8:3::10"})
			same(t, "gateways", []bool{h.Gateway4.IsValid(), h.Gateway6.IsValid()}, []bool{false, false})
			same(t, "prefix", h.NoPrefix, "tun0 is a tunnel or a point-to-point link")
			same(t, "the configured one", s.host("eth0").Link.Name, "eth0")
		})
	}
}

// TestGatewayIsTheOneThatPacketsTake: of several routers the one that the kernel
// prefers (RFC 4191) is to meet an address before the query leaves.
func TestGatewayIsTheOneThatPacketsTake(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	w.host.ip("-6 route del default")
	for _, r := range []struct {
		from string
		pref byte
	}{{"fe80::a", 0x18}, {"fe80::b", 0x08}, {"fe80::c", 0x00}} { // low, high, medium
		w.router.ip("addr add " + r.from + "/64 dev lan0 nodad")
		w.announce(r.from, r.pref)
		s.await("the route by "+r.from, func() bool { return has(s.host("").Gateways, netip.MustParseAddr(r.from)) })
	}
	h := s.host("")
	same(t, "gateways", h.Gateways, addrs("192.0.2.1 fe80::a fe80::b fe80::c"))
	same(t, "gateway", h.Gateway6, "fe80::b")
	same(t, "of the configured interface", s.host("eth0").Gateway6, "fe80::b")
}

// TestARuleIsAChange, though no route changes with it.
func TestARuleIsAChange(t *testing.T) {
	w := newWire(t)
	w.host.ip("-6 route add default via fe80::7 dev eth0 table 7")
	s := w.host.open()
	s.await("detection of duplicates is over", func() bool { return w.host.ip("addr show tentative") == "" })
	for quiet := false; !quiet; {
		select {
		case <-s.changed:
		case <-time.After(time.Second):
			quiet = true
		}
	}
	w.host.ip("-6 rule add table 7 priority 7")
	select {
	case <-s.changed:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody was told")
	}
	same(t, "gateway", s.host("").Gateway6, "fe80::7")
}

// announce sends a router advertisement of a default router (RFC 4861, section
// 4.2), with a preference.
func (w *wire) announce(from string, pref byte) {
	w.sendAll(from, append([]byte{134, 0, 0, 0, 64, pref, 0x07, 0x08}, make([]byte, 8)...))
}
