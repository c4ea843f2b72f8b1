package ipaddr

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

func TestParseResolvers(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "[]"},
		{"# nameserver 192.0.2.1\nsearch example.org\n", "[]"},
		{"nameserver 192.0.2.1\nnameserver\t2001:db8::53 # a comment\r\n", "[192.0.2.1 2001:db8::53]"},
		{"nameserver fe80::53%eth0\nnameserver ::ffff:192.0.2.1\n", "[fe80::53 192.0.2.1]"},
		{"nameserver\nnameserver here\nnameserver 192.0.2.300\nnameserverx 192.0.2.1\n nameserver 192.0.2.2", "[192.0.2.2]"},
	} {
		have := parseResolvers(strings.NewReader(c.text))
		if fmt.Sprint(have) != c.want {
			t.Errorf("%q: %v, want %s", c.text, have, c.want)
		}
	}
}

func TestResolversAreBounded(t *testing.T) {
	if n := len(parseResolvers(strings.NewReader(strings.Repeat("nameserver 192.0.2.1\n", 1000)))); n != maxResolvers {
		t.Errorf("%d resolvers, at most %d", n, maxResolvers)
	}
}

func FuzzParseResolvers(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nnameserver fe80::53%eth0\noptions edns0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list := parseResolvers(bytes.NewReader(b))
		if len(list) > maxResolvers {
			t.Fatalf("%d resolvers", len(list))
		}
		for _, a := range list {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
				t.Fatalf("resolver %v", a)
			}
		}
	})
}

func TestParseNetworkd(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "[]"},
		{"# This is private data. Do not parse.\nADMIN_STATE=configured\nDNS=192.0.2.53\nNTP=\nDOMAINS=example.org\n", "[]"},
		{"NTP=192.0.2.1 2001:db8::123 ntp.example.org ::ffff:192.0.2.2\n", "[192.0.2.1 2001:db8::123 192.0.2.2]"},
		{"NTP=0.0.0.0 127.0.0.1 224.0.1.1 ff05::101 fe80::1%eth0 192.0.2.300 192.0.2.1,192.0.2.2\n", "[]"},
		{"XNTP=192.0.2.1\n NTP=192.0.2.1\nNTP 192.0.2.1\n", "[]"},
	} {
		if have := fmt.Sprint(parseNetworkd(strings.NewReader(c.text))); have != c.want {
			t.Errorf("%q: %v, want %s", c.text, have, c.want)
		}
	}
}

func TestParseServers(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"192.0.2.1\n\n # of eth0\n2001:db8::123 # the other\r\n", "[192.0.2.1 2001:db8::123]"},
		{"server 192.0.2.1\nntp.example.org\n192.0.2.1 192.0.2.2\n::1\n", "[]"},
	} {
		if have := fmt.Sprint(parseServers(strings.NewReader(c.text))); have != c.want {
			t.Errorf("%q: %v, want %s", c.text, have, c.want)
		}
	}
}

func FuzzTimeServers(f *testing.F) {
	f.Add([]byte("NTP=192.0.2.1 2001:db8::123 ntp.example.org\n"))
	f.Add([]byte("192.0.2.1 # of eth0\nfe80::1%eth0\n"))
	f.Add([]byte(strings.Repeat("192.0.2.1\n", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, list := range [][]netip.Addr{parseNetworkd(bytes.NewReader(b)), parseServers(bytes.NewReader(b))} {
			if len(list) > maxTimeServers {
				t.Fatalf("%d servers", len(list))
			}
			for _, a := range list {
				if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsMulticast() || a.IsUnspecified() || a.IsLoopback() {
					t.Fatalf("server %v", a)
				}
			}
		}
	})
}

func TestPeer(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid", ""},
		{"   0: 0A0200C0:0016 010200C0:D431 01 00000000:00000000 02:0", "192.0.2.1"},
		{"   0: 0A0200C0:0016 010200C0:D431 0A 00000000:00000000 02:0", ""},
		{"   1: 0100007F:0016 0100007F:D431 01 00000000:00000000 02:0", ""},
		{"   2: 000080FE:0016 B80D0120000000000000000001000000:D431 01", "2001:db8::1"},
		{"   3: x 0000000000000000FFFF0000010200C0:D431 01", "192.0.2.1"},
		{"   4: x 0102:D431 01", ""},
		{"   5: x", ""},
	} {
		a, ok := peer(c.line)
		have := ""
		if ok {
			have = a.String()
		}
		if have != c.want { // as a little-endian host prints them
			t.Errorf("%q: %q, want %q", c.line, have, c.want)
		}
	}
}

func FuzzPeer(f *testing.F) {
	f.Add("   0: 0A0200C0:0016 010200C0:D431 01 00000000:00000000 02:0")
	f.Fuzz(func(t *testing.T, line string) {
		if a, ok := peer(line); ok && (!a.IsValid() || a.Is4In6() || a.IsUnspecified()) {
			t.Fatalf("peer %v of %q", a, line)
		}
	})
}

func TestPeersAreBounded(t *testing.T) {
	var b strings.Builder
	for i := range 2 * maxPeers {
		fmt.Fprintf(&b, "%d: 0A0200C0:0016 %04X000A:D431 01\n", i, i)
	}
	seen := map[netip.Addr]bool{}
	addPeers(seen, strings.NewReader(b.String()))
	if len(seen) != maxPeers {
		t.Errorf("%d peers", len(seen))
	}
}

func TestSolicitation(t *testing.T) {
	target := netip.MustParseAddr("fe80::1:2:3")
	hw, _ := net.ParseMAC("02:00:00:00:00:01")
	m := solicitation(target, hw)
	if len(m) != 32 || m[0] != 135 || !bytes.Equal(m[8:24], target.AsSlice()) || !bytes.Equal(m[24:], []byte{1, 1, 2, 0, 0, 0, 0, 1}) {
		t.Errorf("solicitation % x", m)
	}
	if m := solicitation(target, nil); len(m) != 24 {
		t.Errorf("without an address of the link: % x", m)
	}
	long := solicitation(target, make(net.HardwareAddr, 20)) // InfiniBand
	if len(long) != 48 || long[25] != 3 {
		t.Errorf("with a long one: % x", long)
	}
	if n := solicitedNode(target); n != netip.MustParseAddr("ff02::1:ff02:3") {
		t.Errorf("solicited node %s", n)
	}
}

func FuzzAdvertised(f *testing.F) {
	ad := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, netip.MustParseAddr("fe80::1").AsSlice()...)
	f.Add(ad)
	f.Add(ad[:23])
	f.Fuzz(func(t *testing.T, m []byte) {
		a, ok := advertised(m)
		if ok && (!a.Is6() || a.IsMulticast() || len(m) < ndHeader) {
			t.Fatalf("target %v of % x", a, m)
		}
	})
}

func FuzzFarEnd(f *testing.F) {
	m := make([]byte, diagReply)
	m[0] = 10
	copy(m[24:], netip.MustParseAddr("2001:db8::1").AsSlice())
	f.Add(m)
	f.Add(m[:71])
	f.Fuzz(func(t *testing.T, m []byte) {
		if a, ok := farEnd(m); ok && (!a.IsValid() || a.Is4In6() || a.IsUnspecified()) {
			t.Fatalf("peer %v of % x", a, m)
		}
	})
}
