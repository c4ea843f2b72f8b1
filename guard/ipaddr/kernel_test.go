package ipaddr_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
)

func TestAddressIsOfUseToNobodyElse(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	routes := w.host.ip("-6 route show")
	a := w.throwAway(1)
	s.set(a)
	w.wantShape(a.Addr) // from its birth: else it would be everybody's source until then
	s.awaitReady(a.Addr)
	w.wantShape(a.Addr)
	if after := w.host.ip("-6 route show"); after != routes {
		t.Errorf("routes were\n%sand are\n%s", routes, after)
	}
	if err := w.host.bind(a.Addr); err != nil {
		t.Errorf("bind a ready address: %v", err)
	}
	w.host.in(func() error {
		c, err := net.Dial("udp6", "[2001:db8:9::1]:123")
		if err != nil {
			return err
		}
		defer c.Close()
		if from := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); from != stable {
			t.Errorf("the kernel picked %s", from)
		}
		return nil
	})
}

func (w *wire) wantShape(a netip.Addr) {
	t := w.host.t
	t.Helper()
	shape := ""
	lines := strings.Split(w.host.ip("-6 addr show dev eth0"), "\n")
	for i, line := range lines {
		if strings.Contains(line, a.String()) {
			shape = line + lines[i+1]
		}
	}
	for _, want := range []string{"/128 scope global", "deprecated", "noprefixroute", "valid_lft 3", "preferred_lft 0sec"} {
		if !strings.Contains(shape, want) {
			t.Errorf("no %q in %q", want, shape)
		}
	}
}

func TestGatewayIsMetBeforeReady(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	a := w.throwAway(1)
	s.set(a)
	s.awaitReady(a.Addr)
	if n := w.router.ip("-6 neigh show dev lan0"); !strings.Contains(n, a.Addr.String()+" lladdr") {
		t.Errorf("the router does not know %s:\n%s", a.Addr, n)
	}
}

func TestKernelEndsAddressWithNobodyAlive(t *testing.T) {
	w := newWire(t)
	dead := w.host.open()
	a := w.throwAway(1)
	a.Until = now() + time.Second
	dead.set(a)
	other := w.host.open() // does nothing but watch
	other.await("the address ends", func() bool {
		all, _ := other.seen()
		return !holds(all, a.Addr)
	})
	dead.set(a)
	if all, _ := dead.seen(); holds(all, a.Addr) {
		t.Error("the address was put back")
	}
}

// TestAdoptedIsReady takes over an address about which the kernel has nothing
// more to tell.
func TestAdoptedIsReady(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	x, y := w.throwAway(1), w.throwAway(2)
	x.Meet, y.Meet = netip.Addr{}, netip.Addr{}
	w.host.ip("addr flush dev eth0 scope link") // its own detection would be news
	w.host.ip("addr add " + y.Addr.String() + "/128 dev eth0 nodad noprefixroute preferred_lft 0 valid_lft 3600")
	s.set(x)
	s.awaitReady(x.Addr)
	s.set(x, y)
	s.awaitReady(y.Addr)
}

// TestNothingIsMadeThatIsOver looks at all addresses: with both lifetimes 0 the
// kernel would make a permanent one that every program prefers.
func TestNothingIsMadeThatIsOver(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	for i, until := range []time.Duration{now(), now() - time.Second, 0} {
		a := w.throwAway(byte(i))
		a.Until = until
		s.set(a)
		if strings.Contains(w.host.ip("-6 addr show dev eth0"), a.Addr.String()) {
			t.Errorf("%s stands, which was over at %s", a.Addr, until)
		}
	}
}

func TestOnlyOursAreRemoved(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	ours := w.throwAway(1)
	s.set(ours)
	w.host.ip("addr add 2001:db8:1::aa/128 dev eth0 nodad")
	w.host.ip("addr add 2001:db8:1::bb/128 dev eth0 nodad noprefixroute preferred_lft 0 valid_lft 3000")
	before := w.host.ip("-6 -o addr show dev eth0")
	s.set()
	after := w.host.ip("-6 -o addr show dev eth0")
	for _, a := range []string{"2001:db8:1::aa/128", "2001:db8:1::bb/128", stable.String() + "/64"} {
		if !strings.Contains(after, a) {
			t.Errorf("%s is gone; before\n%s", a, before)
		}
	}
	if strings.Contains(after, ours.Addr.String()) {
		t.Error("ours is still there")
	}
	all, ready := s.seen()
	if len(all) != 1 || all[0].Addr != netip.MustParseAddr("2001:db8:1::bb") || len(ready) != 0 {
		t.Errorf("seen %v, ready %v: want the one of our shape, never ready", all, ready)
	}
	claimed := w.throwAway(2)
	s.set(claimed)
	w.host.ip("addr change " + claimed.Addr.String() + "/128 dev eth0 preferred_lft forever valid_lft forever")
	s.set()
	if !strings.Contains(w.host.ip("-6 -o addr show dev eth0"), claimed.Addr.String()) {
		t.Error("an address that the admin made their own was removed")
	}
	if err := s.Set(now(), []guard.Addr{{Addr: netip.MustParseAddr("2001:db8:1::aa"), Link: w.link, Until: now() + time.Hour}}); err == nil ||
		!strings.Contains(err.Error(), "add address 2001:db8:1::aa to eth0: the host has it already") {
		t.Errorf("an admin's address was taken over: %v", err)
	}
}

func TestLinkDownIsSeen(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	a := w.throwAway(1)
	s.set(a)
	s.awaitReady(a.Addr)
	w.host.ip("link set eth0 down")
	s.await("the address goes with the link", func() bool {
		all, ready := s.seen()
		return !holds(all, a.Addr) && len(ready) == 0
	})
	w.host.ip("link set eth0 up")
	s.set(a)
	if all, _ := s.seen(); holds(all, a.Addr) {
		t.Error("the address was put back")
	}
}

func TestErrorsNameAddressAndInterface(t *testing.T) {
	w := newWire(t)
	s := w.host.open()
	a := w.throwAway(1)
	w.host.sysctl("ipv6/conf/eth0/disable_ipv6", "1")
	err := s.Set(now(), []guard.Addr{a})
	want := "add address " + a.Addr.String() + " to eth0: IPv6 is off on the interface"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	w.host.sysctl("ipv6/conf/eth0/disable_ipv6", "0")
	s.set(a) // what could not be made was never made: it is not "put back"
	if all, _ := s.seen(); !holds(all, a.Addr) {
		t.Error("the address was not made after the error")
	}
	a.Link, a.Addr = 4711, a.Addr.Next()
	if err := s.Set(now(), []guard.Addr{a}); err == nil || !strings.Contains(err.Error(), a.Addr.String()+" to interface 4711: the interface is gone") {
		t.Errorf("error %v", err)
	}
}
