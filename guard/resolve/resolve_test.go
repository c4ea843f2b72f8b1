package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"ntpveil/guard"
)

// server is a name server on loopback: handle makes the answer to a question.
func server(t *testing.T, handle func(q dnsmessage.Question, m *dnsmessage.Message)) *net.Resolver {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil {
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			handle(m.Questions[0], &m)
			if out, err := m.Pack(); err == nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if network == "tcp" {
			return nil, errors.New("no TCP here")
		}
		return net.Dial("udp", c.LocalAddr().String())
	}}
}

func answer(m *dnsmessage.Message, q dnsmessage.Question, addrs ...string) {
	for _, text := range addrs {
		a := netip.MustParseAddr(text)
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
}

func lookup(t *testing.T, dns *net.Resolver, name string) guard.Resolved {
	t.Helper()
	r := &Resolver{Now: func() time.Duration { return 0 }, DNS: dns}
	return r.Lookup(t.Context(), guard.Lookup{Key: 9, Name: name, By: 3 * time.Second})
}

func TestBothFamiliesIPv6First(t *testing.T) {
	dns := server(t, func(q dnsmessage.Question, m *dnsmessage.Message) {
		answer(m, q, "192.0.2.1", "2001:db8::1", "2001:db8::1", "2001:db8::2")
	})
	got := lookup(t, dns, "pool.example.")
	want := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.1")}
	if got.Err != nil || got.Key != 9 || len(got.Addrs) != 3 || got.Addrs[0] != want[0] || got.Addrs[2] != want[2] {
		t.Errorf("%+v, want %v", got, want)
	}
}

func TestOneFamilyFailsAndTheOtherIsKept(t *testing.T) {
	dns := server(t, func(q dnsmessage.Question, m *dnsmessage.Message) {
		if q.Type == dnsmessage.TypeAAAA {
			m.RCode = dnsmessage.RCodeServerFailure
			return
		}
		answer(m, q, "192.0.2.1")
	})
	if got := lookup(t, dns, "pool.example."); got.Err != nil || len(got.Addrs) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestMissingIsToldFromFailing(t *testing.T) {
	for code, missing := range map[dnsmessage.RCode]bool{dnsmessage.RCodeNameError: true, dnsmessage.RCodeServerFailure: false} {
		dns := server(t, func(_ dnsmessage.Question, m *dnsmessage.Message) { m.RCode = code })
		if got := lookup(t, dns, "pool.example."); got.Err == nil || errors.Is(got.Err, ErrNotFound) != missing {
			t.Errorf("%v: %v", code, got.Err)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	var many []netip.Addr
	for i := range 1000 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}))
	}
	if got := sift(many); len(got) != maxAnswers {
		t.Errorf("%d answers", len(got))
	}
	if got := sift([]netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("192.0.2.1")}); len(got) != 1 || !got[0].Is4() {
		t.Errorf("%v", got)
	}
}

func TestALiteralNeedsNoServer(t *testing.T) {
	dns := server(t, func(q dnsmessage.Question, _ *dnsmessage.Message) { t.Errorf("asked for %v", q.Name) })
	if got := lookup(t, dns, "2001:db8::7"); got.Err != nil || len(got.Addrs) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestTheDeadlineHolds(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	dns := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("udp", silent.LocalAddr().String())
	}}
	r := &Resolver{Now: func() time.Duration { return time.Minute }, DNS: dns}
	if got := r.Lookup(t.Context(), guard.Lookup{Name: "pool.example.", By: time.Minute + 50*time.Millisecond}); got.Err == nil || errors.Is(got.Err, ErrNotFound) {
		t.Errorf("%+v", got)
	}
}
