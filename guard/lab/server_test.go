package lab_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/beevik/ntp"

	"ntpveil/guard/lab"
)

const sent = 0x0123456789abcdef

// ask sends a query from the host and returns the datagrams that come within the
// time, or as many as are wanted.
func ask(t *testing.T, l *lab.Lab, server netip.Addr, want int, within time.Duration) (all [][]byte) {
	t.Helper()
	c, err := l.Host.Dial(t.Context(), "udp", netip.AddrPortFrom(server, 123).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(lab.NTP{Version: 4, Mode: 3, Transmit: sent}.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	for len(all) < want {
		b := make([]byte, 2048)
		n, err := c.Read(b)
		if err != nil {
			return all
		}
		all = append(all, b[:n])
	}
	return all
}

// one is the only datagram that a server answers with.
func one(t *testing.T, l *lab.Lab, server netip.Addr) lab.NTP {
	t.Helper()
	all := ask(t, l, server, 1, 5*time.Second)
	if len(all) != 1 {
		t.Fatal("no answer")
	}
	p, ok := lab.ParseNTP(all[0])
	if !ok {
		t.Fatalf("short answer: %d bytes", len(all[0]))
	}
	return p
}

func TestHonestServerSatisfiesALibrary(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Servers: 1})
	for _, by := range []time.Duration{0, time.Hour} {
		l.Server(1).Answer(lab.Offset(by))
		for _, a := range []netip.Addr{l.Server(1).Addr6, l.Server(1).Addr4} {
			checkOffset(t, l, a, by)
		}
	}
}

func checkOffset(t *testing.T, l *lab.Lab, a netip.Addr, want time.Duration) {
	t.Helper()
	c, err := l.Host.Dial(t.Context(), "udp", netip.AddrPortFrom(a, 123).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := ntp.QueryWithOptions("lab", ntp.QueryOptions{Dialer: dialled(c)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	if miss := (r.ClockOffset - want).Abs(); miss > time.Second || r.Stratum != 2 {
		t.Errorf("%s: offset %s, want %s, stratum %d", a, r.ClockOffset, want, r.Stratum)
	}
}

func TestRealServersAnswer(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Servers: 2, Chronyd: true})
	for _, s := range l.Servers {
		checkOffset(t, l, s.Addr6, 0)
	}
}

func TestQueryIsSeenBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	order := make(chan string, 2)
	var q lab.Query
	l.Harvester.OnArrival(func(arrived lab.Query) {
		q = arrived
		order <- "arrived, told " + (<-l.Harvester.Told).String()
	})
	l.Harvester.Answer(func(q lab.Query) []lab.Reply {
		order <- "answered"
		return lab.Honest()(q)
	})
	one(t, l, l.Harvester.Addr6)
	if first, second := <-order, <-order; first != "arrived, told "+q.From.String() || second != "answered" {
		t.Errorf("%s, then %s", first, second)
	}
	if q.From.Addr() != l.Host.Addr6 || q.To.Addr() != l.Harvester.Addr6 || q.NTP.Transmit != sent {
		t.Errorf("saw %+v, want it from %s", q, l.Host.Addr6)
	}
	seen, err := l.Harvester.Await(soon(t), 1)
	if err != nil || len(seen) != 1 || seen[0].From != q.From || seen[0].At.IsZero() {
		t.Errorf("recorded %+v, %v", seen, err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Harvester.Await(cancelled, 2); err == nil {
		t.Error("a second query that nobody sent")
	}
}

func TestBehaviours(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Servers: 1})
	s := l.Server(1)

	s.Answer(lab.Kiss("RATE"))
	if p := one(t, l, s.Addr6); p.Stratum != 0 || string(p.RefID[:]) != "RATE" || p.Origin != sent {
		t.Errorf("kiss: %+v", p)
	}
	s.Answer(lab.WrongOrigin())
	if p := one(t, l, s.Addr6); p.Origin == sent {
		t.Errorf("wrong origin: %+v", p)
	}
	s.Answer(lab.Fields(func(p *lab.NTP) { p.Leap, p.Poll = 3, 127 }))
	if p := one(t, l, s.Addr6); p.Leap != 3 || p.Poll != 127 || p.Origin != sent {
		t.Errorf("fields: %+v", p)
	}
	s.Answer(lab.Absurd(1))
	if a, b := one(t, l, s.Addr6), one(t, l, s.Addr6); a.Origin != sent || a.Mode != 4 || a.RootDelay == b.RootDelay {
		t.Errorf("absurd: %+v, %+v", a, b)
	}
	s.Answer(lab.Garbage(1))
	for _, b := range ask(t, l, s.Addr6, 8, 5*time.Second) {
		if len(b) >= 48 && binary.BigEndian.Uint64(b[24:]) == sent {
			t.Errorf("garbage has our origin")
		}
	}
	s.Answer(lab.Flood(50, lab.Honest()))
	if all := ask(t, l, s.Addr6, 51, 5*time.Second); len(all) != 51 || binary.BigEndian.Uint64(all[50][24:]) != sent {
		t.Errorf("flood: %d datagrams", len(all))
	}
	s.Answer(lab.Late(50*time.Millisecond, lab.Honest()))
	if asked := time.Now(); one(t, l, s.Addr6).Origin != sent || time.Since(asked) < 50*time.Millisecond {
		t.Errorf("late: after %s", time.Since(asked))
	}
	s.Answer(lab.Silent())
	if all := ask(t, l, s.Addr6, 1, 100*time.Millisecond); len(all) != 0 {
		t.Errorf("silent: %x", all)
	}
}

func TestNTPTime(t *testing.T) {
	// RFC 5905 figure 4: the era ends 7 February 2036, and 1970 is 2208988800.
	for _, c := range []struct {
		at   time.Time
		want uint64
	}{
		{time.Unix(0, 0), 2208988800 << 32},
		{time.Unix(0, 500_000_000), 2208988800<<32 | 1<<31},
		{time.Date(2036, 2, 7, 6, 28, 16, 0, time.UTC), 0},
	} {
		if got := lab.NTPTime(c.at); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.at, got, c.want)
		}
	}
}

func FuzzParseNTP(f *testing.F) {
	f.Add(lab.NTP{Version: 4, Mode: 3, Poll: -6, Transmit: sent}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := lab.ParseNTP(b); ok && string(p.Bytes()) != string(b[:48]) {
			t.Errorf("%x became %x", b[:48], p.Bytes())
		}
	})
}

// dialled gives a library a connection that exists already.
func dialled(c net.Conn) func(_, _ string) (net.Conn, error) {
	return func(_, _ string) (net.Conn, error) { return c, nil }
}
