package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
	"ntpveil/guard/guardtest"
)

// TestMain lets the tests run in a network namespace of their own too.
func TestMain(m *testing.M) {
	if err := guardtest.Loopback(); err != nil {
		panic(err)
	}
	m.Run()
}

var (
	_ daemon.Resolver = (*Resolver)(nil)

	one4 = netip.MustParseAddr("192.0.2.1")
	one6 = netip.MustParseAddr("2001:db8::1")
	two6 = netip.MustParseAddr("2001:db8::2")
)

func lookup(t *testing.T, dns *net.Resolver, name string, within time.Duration) guard.Resolved {
	t.Helper()
	r := &Resolver{Now: func() time.Duration { return time.Hour }, DNS: dns}
	got := r.Lookup(t.Context(), guard.Lookup{Key: 9, Name: name, By: time.Hour + within})
	if got.Key != 9 || (got.Err == nil) != (len(got.Addrs) > 0) {
		t.Errorf("%+v", got)
	}
	return got
}

func TestAnswers(t *testing.T) {
	mapped := netip.AddrFrom16(one4.As16())
	for name, tt := range map[string]struct {
		handle handler
		name   string
		want   []netip.Addr
	}{
		"both families, IPv6 first":       {addrs(one4, one6, one6, two6), "pool.example.", []netip.Addr{one6, two6, one4}},
		"a name without its dot":          {addrs(one6), "pool.example", []netip.Addr{one6}},
		"only A":                          {addrs(one4), "pool.example.", []netip.Addr{one4}},
		"only AAAA":                       {addrs(one6), "pool.example.", []netip.Addr{one6}},
		"AAAA fails, A is kept":           {families(code(dnsmessage.RCodeServerFailure), addrs(one4)), "pool.example.", []netip.Addr{one4}},
		"A fails, AAAA is kept":           {families(addrs(one6), code(dnsmessage.RCodeServerFailure)), "pool.example.", []netip.Addr{one6}},
		"AAAA is missing, A is kept":      {families(code(dnsmessage.RCodeNameError), addrs(one4)), "pool.example.", []netip.Addr{one4}},
		"an IPv4 address in a AAAA":       {families(addrs(mapped), addrs(one4)), "pool.example.", []netip.Addr{one4}},
		"an address needs no server":      {mute, "2001:db8::2", []netip.Addr{two6}},
		"an IPv4 address neither":         {mute, "192.0.2.1", []netip.Addr{one4}},
		"nor an IPv4 address in IPv6":     {mute, "::ffff:192.0.2.1", []netip.Addr{one4}},
		"an alias is followed":            {alias(one6), "pool.example.", []netip.Addr{one6}},
		"other records are passed over":   {noise(one6), "pool.example.", []netip.Addr{one6}},
		"too long for UDP: TCP is asked":  {addrs(run(20)...), "pool.example.", run(20)},
		"thousands: the first are enough": {addrs(run(3000)...), "pool.example.", run(maxAnswers)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lookup(t, server(t, tt.handle), tt.name, 5*time.Second); got.Err != nil || !slices.Equal(sorted(got.Addrs), sorted(tt.want)) || !sixFirst(got.Addrs) {
				t.Errorf("%v, %v, want %v", got.Addrs, got.Err, tt.want)
			}
		})
	}
}

// run is n IPv4 addresses. Go's resolver keeps their order, as they differ in
// nothing that RFC 6724 looks at.
func run(n int) (out []netip.Addr) {
	for i := range n {
		out = append(out, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
	}
	return out
}

func sorted(addrs []netip.Addr) []netip.Addr {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

func sixFirst(addrs []netip.Addr) bool {
	return slices.IsSortedFunc(addrs, func(a, b netip.Addr) int { return b.BitLen() - a.BitLen() })
}

func alias(a netip.Addr) handler {
	real := dnsmessage.MustNewName("real.example.")
	return func(q dnsmessage.Question, m *dnsmessage.Message) bool {
		asked := q.Name
		q.Name = real
		addrs(a)(q, m)
		h := dnsmessage.ResourceHeader{Name: asked, Type: dnsmessage.TypeCNAME, Class: q.Class, TTL: 60}
		m.Answers = append([]dnsmessage.Resource{{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: real}}}, m.Answers...)
		return true
	}
}

func noise(a netip.Addr) handler {
	return func(q dnsmessage.Question, m *dnsmessage.Message) bool {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeTXT, Class: q.Class, TTL: 60}
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.TXTResource{TXT: []string{"hello"}}})
		return addrs(a)(q, m)
	}
}

func TestFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		handle  handler
		name    string
		missing bool
	}{
		"no such name":             {code(dnsmessage.RCodeNameError), "pool.example.", true},
		"a name without addresses": {addrs(), "pool.example.", true},
		"not a name":               {mute, "a name with blanks", true},
		"no name":                  {mute, "", true},
		"the server fails":         {code(dnsmessage.RCodeServerFailure), "pool.example.", false},
		"the server refuses":       {code(dnsmessage.RCodeRefused), "pool.example.", false},
		"half of it fails":         {families(code(dnsmessage.RCodeNameError), code(dnsmessage.RCodeServerFailure)), "pool.example.", false},
		"silence":                  {mute, "pool.example.", false},
		"an address with a zone":   {mute, "fe80::1%lo", false},
	} {
		t.Run(name, func(t *testing.T) {
			within := 5 * time.Second
			if name == "silence" {
				within = 200 * time.Millisecond
			}
			if got := lookup(t, server(t, tt.handle), tt.name, within); got.Err == nil || errors.Is(got.Err, ErrNotFound) != tt.missing {
				t.Errorf("%v, %v", got.Addrs, got.Err)
			}
		})
	}
}

// TestASilentFamilyTakesNothingAlong: AAAA is never answered, and the A are there
// before the deadline.
func TestASilentFamilyTakesNothingAlong(t *testing.T) {
	start := time.Now()
	got := lookup(t, server(t, families(mute, addrs(one4))), "pool.example.", time.Second)
	if took := time.Since(start); !slices.Equal(got.Addrs, []netip.Addr{one4}) || took >= time.Second {
		t.Errorf("%v, %v after %s", got.Addrs, got.Err, took)
	}
}

func TestGarbageIsNoAnswer(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, b := range [][]byte{{}, buf[:n/2], buf[:n], append(buf[:2:2], 0xff, 0xff, 0xff), make([]byte, 1400)} {
				_, _ = c.WriteTo(b, from)
			}
		}
	}()
	dns := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("udp", c.LocalAddr().String())
	}}
	if got := lookup(t, dns, "pool.example.", 200*time.Millisecond); got.Err == nil || errors.Is(got.Err, ErrNotFound) {
		t.Errorf("%v, %v", got.Addrs, got.Err)
	}
}

func TestACancelledLookUpEnds(t *testing.T) {
	asked := make(chan struct{}, 16)
	dns := server(t, func(dnsmessage.Question, *dnsmessage.Message) bool {
		asked <- struct{}{}
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	r := &Resolver{Now: func() time.Duration { return 0 }, DNS: dns}
	if got := r.Lookup(ctx, guard.Lookup{Name: "pool.example.", By: time.Hour}); got.Err == nil || errors.Is(got.Err, ErrNotFound) {
		t.Errorf("%v, %v", got.Addrs, got.Err)
	}
}

func TestALateLookUpFails(t *testing.T) {
	if got := lookup(t, server(t, addrs(one6)), "pool.example.", -time.Second); got.Err == nil {
		t.Errorf("%v", got.Addrs)
	}
}

// FuzzSift: whatever addresses come, those that are kept are plain.
func FuzzSift(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), []byte("0123"), "")
	f.Add([]byte{15: 1}, []byte{}, "eth0")
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01"), []byte{192, 0, 2, 1}, "")
	f.Fuzz(func(t *testing.T, six, four []byte, zone string) {
		var a, b []netip.Addr
		for ; len(six) >= 16; six = six[16:] {
			a = append(a, netip.AddrFrom16([16]byte(six)).WithZone(zone))
		}
		for ; len(four) >= 4; four = four[4:] {
			b = append(b, netip.AddrFrom4([4]byte(four)))
		}
		out := sift(a, b)
		if len(out) > 2*maxAnswers || !sixFirst(out) || len(slices.Compact(sorted(out))) != len(out) {
			t.Errorf("%v", out)
		}
		for _, o := range out {
			if !o.IsValid() || o.Zone() != "" || o.Is4In6() {
				t.Errorf("%v", o)
			}
		}
	})
}
