package lab_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// exchange sends packets from the scanner and returns the first that matches of
// what the host's link shows.
func exchange(t *testing.T, l *lab.Lab, match func(lab.Packet) bool, packets ...[]byte) lab.Packet {
	t.Helper()
	c, err := l.Host.Link.Capture()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Scanner.Link.Send(packets...); err != nil {
		t.Fatal(err)
	}
	p, err := c.Await(soon(t), match)
	if err != nil {
		t.Fatalf("%v; saw %v", err, c.Packets())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return p
}

// from matches what the host itself sends of an ICMPv6 type.
func fromHost(kind uint8) func(lab.Packet) bool {
	return func(p lab.Packet) bool { return p.Out && p.ICMP6(kind) }
}

// TestForgedPacketsReachTheHost: the kernel answers each of them, so that its
// lengths and checksums are right. An unguarded host says all of this.
func TestForgedPacketsReachTheHost(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	if err := l.Host.Serve([]uint16{80}, []uint16{5353}); err != nil {
		t.Fatal(err)
	}
	src, dst := l.Scanner.Addr6, l.Host.Addr6
	long := lab.Forge(src, dst, lab.UDP(4000, 5353, bytes.Repeat([]byte("odd"), 7)))
	udp := func(p lab.Packet) bool { from, _ := p.Ports(); return p.Out && from == 5353 }
	for name, c := range map[string]struct {
		packets [][]byte
		match   func(lab.Packet) bool
	}{
		"echo":                {[][]byte{lab.Forge(src, dst, lab.Echo(1, 1))}, fromHost(129)},
		"open port":           {[][]byte{lab.Forge(src, dst, lab.TCP(4000, 80, lab.SYN))}, tcpFlags(lab.SYN | lab.ACK)},
		"closed port":         {[][]byte{lab.Forge(src, dst, lab.TCP(4000, 81, lab.SYN))}, tcpFlags(lab.RST | lab.ACK)},
		"datagram":            {[][]byte{long}, udp},
		"closed datagram":     {[][]byte{lab.Forge(src, dst, lab.UDP(4000, 9, []byte("x")))}, fromHost(1)},
		"unknown protocol":    {[][]byte{lab.Forge(src, dst, lab.Payload(253, []byte("experiment")))}, fromHost(4)},
		"hop-by-hop option":   {[][]byte{lab.Forge(src, dst, lab.HopByHop(lab.Option{Type: 0x80, Data: make([]byte, 3)}), lab.Echo(1, 1))}, anybody(4)},
		"destination option":  {[][]byte{lab.Forge(src, dst, lab.Destination(lab.Option{Type: 0xbe}), lab.Echo(1, 1))}, fromHost(4)},
		"harmless option":     {[][]byte{lab.Forge(src, dst, lab.Destination(lab.Option{Type: 0x3e, Data: []byte{1}}), lab.Echo(1, 1))}, fromHost(129)},
		"routing header":      {[][]byte{lab.Forge(src, dst, lab.Routing(200, 1, src), lab.Echo(1, 1))}, fromHost(4)},
		"two fragments":       {[][]byte{lab.Cut(long, 7, 0, 16, true), lab.Cut(long, 7, 16, -1, false)}, udp},
		"fragment, odd size":  {[][]byte{lab.Cut(long, 8, 0, 13, true)}, fromHost(4)},
		"fragment of nothing": {[][]byte{lab.Forge(src, dst, lab.Fragment(9, 0, false), lab.Payload(unix.IPPROTO_NONE, nil))}, func(p lab.Packet) bool { return !p.Out && p.Proto == unix.IPPROTO_NONE }},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "hop-by-hop option" {
				hopByHop(t, l, c.packets[0])
				return
			}
			got := exchange(t, l, c.match, c.packets...)
			if got.Out && (got.Src != dst || got.Dst != src) {
				t.Errorf("answer %s, want it from %s to %s", got, dst, src)
			}
		})
	}
}

// hopByHop is sent from the router's end of the cable: routers look at such
// options too, and complain first.
func hopByHop(t *testing.T, l *lab.Lab, packet []byte) {
	t.Helper()
	c, err := l.Host.Link.Capture()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := l.Host.Link.Peer.Send(packet); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Await(soon(t), fromHost(4)); err != nil || p.Src != l.Host.Addr6 {
		t.Errorf("%v, %v", p, err)
	}
}

func anybody(kind uint8) func(lab.Packet) bool {
	return func(p lab.Packet) bool { return p.ICMP6(kind) }
}

func tcpFlags(want uint8) func(lab.Packet) bool {
	return func(p lab.Packet) bool {
		return p.Out && p.Proto == unix.IPPROTO_TCP && len(p.Payload) > 13 && p.Payload[13] == want
	}
}

// TestForgedTooBigIsBelieved: the whole chain from forging to the host's route
// exception works.
func TestForgedTooBigIsBelieved(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	sent := exchange(t, l, fromHost(129), lab.Forge(l.Scanner.Addr6, l.Host.Addr6, lab.Echo(1, 1)))
	about := lab.Forge(l.Visitor.Addr6, l.Host.Addr6, lab.TooBig(1280, sent.Data))
	c, err := l.Host.Link.Capture()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := l.Visitor.Link.Send(about); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Await(soon(t), func(p lab.Packet) bool { return !p.Out && p.ICMP6(2) }); err != nil {
		t.Fatal(err)
	}
	routes, err := l.Host.Netlink().RouteGet(l.Scanner.Addr6.AsSlice())
	if err != nil || len(routes) != 1 || routes[0].MTU != 1280 {
		t.Errorf("route to the scanner: %+v, %v", routes, err)
	}
}

// TestCaptureTakesWhatHasArrived: what was sent before Close is in it.
func TestCaptureTakesWhatHasArrived(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	c, err := l.Host.Link.Capture()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	packets := make([][]byte, 2000)
	for i := range packets {
		packets[i] = lab.Forge(l.Visitor.Addr6, l.Visitor.Addr6, lab.UDP(uint16(i), 9, nil)) // the host does not care
	}
	if err := l.Host.Link.Peer.Send(packets...); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(c.Packets(), func(p lab.Packet) bool { return p.Src != l.Visitor.Addr6 })
	if len(got) != len(packets) {
		t.Fatalf("captured %d of %d", len(got), len(packets))
	}
	for i, p := range got {
		if from, _ := p.Ports(); int(from) != i || p.Out || p.At.Before(began.Add(-time.Second)) || p.At.After(time.Now()) {
			t.Fatalf("packet %d: %s at %s, out: %v", i, p, p.At, p.Out)
		}
	}
}

func TestPacketsAreTakenApart(t *testing.T) {
	src, dst := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	whole := lab.Forge(src, dst, lab.HopByHop(lab.Option{Type: 0x3e}), lab.Destination(), lab.Fragment(1, 0, true), lab.UDP(1, 2, []byte("data")))
	p, ok := lab.ParsePacket(whole)
	if want := []uint8{0, 60, 44}; !ok || p.Src != src || p.Dst != dst || p.HopLimit != 64 || p.Later || !slices.Equal(p.Headers, want) {
		t.Errorf("%+v, %v", p, ok)
	}
	if from, to := p.Ports(); from != 1 || to != 2 || !bytes.HasSuffix(p.Payload, []byte("data")) {
		t.Errorf("ports %d, %d of %+v", from, to, p)
	}
	later, ok := lab.ParsePacket(lab.WithHopLimit(lab.Cut(whole, 5, 8, -1, false), 3))
	if !ok || !later.Later || later.HopLimit != 3 {
		t.Errorf("%+v, %v", later, ok)
	}
	if p, ok := lab.ParsePacket(lab.Forge(src, dst, lab.Destination())); !ok || p.Proto != unix.IPPROTO_NONE {
		t.Errorf("%+v, %v", p, ok)
	}
	for n := range whole {
		if n < 40+8+8+8 {
			if _, ok := lab.ParsePacket(whole[:n]); ok {
				t.Errorf("accepted the first %d bytes", n)
			}
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	src, dst := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	f.Add(lab.Forge(src, dst, lab.HopByHop(), lab.Routing(0, 1, src), lab.Fragment(1, 8, true), lab.TCP(1, 2, lab.SYN)))
	f.Add(lab.Forge(src, dst, lab.Echo(1, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := lab.ParsePacket(b)
		_, _ = p.Ports()
		_ = p.Housekeeping()
		if s := p.String(); s == "" || ok && len(p.Payload) > len(b)-40 {
			t.Errorf("%q, payload of %d bytes", s, len(p.Payload))
		}
	})
}
