package lab_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

func TestScannerFindsWhatIsOpen(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	if err := l.Host.Serve([]uint16{22, 80, 8080}, []uint16{5353}); err != nil {
		t.Fatal(err)
	}
	s := lab.Scan{Target: l.Host.Addr6, TCP: []uint16{22, 80, 443, 8080}, UDP: []uint16{5353, 9}, Echo: true, Wait: 5 * time.Second}
	want := "[tcp/22 open tcp/80 open tcp/443 closed tcp/8080 open udp/5353 open udp/9 closed echo open]"
	for _, from := range []uint16{0, 123, 123} { // twice: the first leaves nothing that is in the way
		for _, n := range []*lab.Node{l.Scanner, l.Harvester.Node} {
			s.From = from
			r, err := n.Scan(soon(t), s)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(r.Found); got != want {
				t.Errorf("from %s, port %d: %s, want %s", n, from, got, want)
			}
			if r.Quiet() || len(r.Back) < 7 || r.Took > 4*time.Second {
				t.Errorf("from %s, port %d: %s, took %s", n, from, r, r.Took)
			}
		}
	}
	s.Target, s.Echo = l.Host.Addr4, false
	if r, err := l.Scanner.Scan(soon(t), s); err != nil || len(r.In(lab.Open)) != 4 {
		t.Errorf("IPv4: %v, %v", r, err)
	}
}

// TestNothingCameBackIsMeasured: an address that a route swallows.
func TestNothingCameBackIsMeasured(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	gone := netip.MustParseAddr("2001:db8:1::dead")
	hole := &netlink.Route{Dst: netlink.NewIPNet(gone.AsSlice()), Type: unix.RTN_BLACKHOLE}
	if err := l.Router.Netlink().RouteAdd(hole); err != nil {
		t.Fatal(err)
	}
	r, err := l.Scanner.Scan(soon(t), lab.Scan{Target: gone, TCP: []uint16{22}, UDP: []uint16{53}, Echo: true, Wait: 100 * time.Millisecond})
	if err != nil || !r.Quiet() || r.Took < 100*time.Millisecond {
		t.Errorf("%s, took %s, %v", r, r.Took, err)
	}
	// An address that nobody has: the router says so, in the end.
	r, err = l.Scanner.Scan(soon(t), lab.Scan{Target: gone.Next(), TCP: []uint16{22}, Wait: 8 * time.Second})
	if err != nil || len(r.In(lab.Unreachable)) != 1 || len(r.Back) == 0 || r.Back[0].Src == gone.Next() || !r.Back[0].ICMP6(1) {
		t.Errorf("%s, took %s, %v", r, r.Took, err)
	}
}

func TestManyPortsFitIntoOneScan(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	ports := make([]uint16, 2000)
	for i := range ports {
		ports[i] = uint16(i + 1)
	}
	r, err := l.Scanner.Scan(soon(t), lab.Scan{Target: l.Host.Addr6, TCP: ports, Wait: 8 * time.Second})
	if err != nil || len(r.In(lab.Closed)) != len(ports) {
		t.Errorf("%d of %d closed, %v", len(r.In(lab.Closed)), len(ports), err)
	}
}
