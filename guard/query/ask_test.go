package query

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
	"ntpveil/guard/sysclock"
)

var _ daemon.Asker = (*Asker)(nil)

func TestOffsetAndDelay(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		to := serve(t, netip.MustParseAddrPort(at), func(req []byte, _ netip.AddrPort) [][]byte {
			return [][]byte{honest(req, 5*time.Second)}
		})
		before := sysclock.Mono()
		ev := once(t, to, 5*time.Second)
		if ev.Err != nil {
			t.Fatal(ev.Err)
		}
		s := ev.Sample
		if (s.Offset-5*time.Second).Abs() > 500*time.Millisecond || s.Delay > time.Second || s.Stratum != 2 || s.Server != to {
			t.Errorf("%+v", s)
		}
		if s.At < before-noStep || s.At > sysclock.Mono() {
			t.Errorf("taken at %s, not between %s and now", s.At, before)
		}
	}
}

// TestTheRequestTellsNothing: it has the bytes of timesyncd's, and no two are alike.
func TestTheRequestTellsNothing(t *testing.T) {
	requests := make(chan []byte, 2)
	to := fakeServer(t, func(req []byte) [][]byte {
		requests <- bytes.Clone(req)
		return [][]byte{honest(req, 0)}
	})
	var seen [][]byte
	for range 2 {
		if ev := once(t, to, 5*time.Second); ev.Err != nil {
			t.Fatal(ev.Err)
		}
		seen = append(seen, <-requests)
	}
	want := append([]byte{0x23}, make([]byte, atTransmit-1)...)
	for _, req := range seen {
		if len(req) != headerLen || !bytes.Equal(req[:atTransmit], want) || bytes.Equal(req[atTransmit:], make([]byte, 8)) {
			t.Errorf("request %q", req)
		}
	}
	if bytes.Equal(seen[0], seen[1]) {
		t.Errorf("twice the same request %q", seen[0])
	}
}

func TestStraysAreReadPast(t *testing.T) {
	to := fakeServer(t, func(req []byte) [][]byte {
		other := edited(req, func(b []byte) { b[atOrigin+7]++ })
		out := [][]byte{
			[]byte("garbage"), {}, make([]byte, headerLen),
			honest(req, time.Hour)[:headerLen-4],
			append(honest(req, time.Hour), 1),                     // no multiple of four
			append(honest(req, time.Hour), make([]byte, 1024)...), // too long
			edited(req, func(b []byte) { b[0] = 0x23 }),           // a request
			edited(req, func(b []byte) { b[0] = 0x25 }),           // a broadcast
			edited(req, func(b []byte) { b[0] = 0x14 }),           // version 2
			edited(req, func(b []byte) { b[0] = 0x2c }),           // version 5
			edited(req, func(b []byte) { b[1], b[atOrigin] = 0, ^b[atOrigin]; copy(b[atRefID:], "DENY") }),
		}
		for range 20_000 { // some hundred fill a socket's buffer that nothing filters
			out = append(out, other)
		}
		return append(out, honest(req, time.Second))
	})
	ev := once(t, to, 20*time.Second)
	if ev.Err != nil || ev.Kiss != "" || (ev.Sample.Offset-time.Second).Abs() > 900*time.Millisecond {
		t.Errorf("%+v", ev)
	}
}

func TestWorkIsBounded(t *testing.T) {
	to := fakeServer(t, func(req []byte) [][]byte {
		out := make([][]byte, 50*patience)
		for i := range out {
			out[i] = edited(req, func(b []byte) { b[0] = 0x23 })
		}
		return out
	})
	if ev := once(t, to, 20*time.Second); ev.Err == nil || !strings.Contains(ev.Err.Error(), "more than 1000 datagrams") {
		t.Errorf("%+v", ev)
	}
}

func TestKisses(t *testing.T) {
	for _, code := range []string{"DENY", "RATE", "RSTR"} {
		to := fakeServer(t, func(req []byte) [][]byte {
			forged := edited(req, func(b []byte) { b[1] = 0; b[atOrigin+1]++; copy(b[atRefID:], "XXXX") })
			return [][]byte{forged, edited(req, func(b []byte) {
				b[0], b[1] = 0xe4, 0
				copy(b[atRefID:], code)
				clear(b[atReference:atOrigin])
				clear(b[atReceive:])
			})}
		})
		if ev := once(t, to, 5*time.Second); ev.Kiss != code || ev.Err != nil {
			t.Errorf("%s: %+v", code, ev)
		}
	}
}

func TestSilenceEndsAtTheDeadline(t *testing.T) {
	to := fakeServer(t, func(req []byte) [][]byte {
		return [][]byte{make([]byte, headerLen), edited(req, func(b []byte) { b[0] = 0x23 }), {}}
	})
	if ev := once(t, to, 300*time.Millisecond); ev.Err == nil || ev.Err.Error() != "no answer, but 3 datagrams that are none" {
		t.Errorf("%+v", ev)
	}
	to = fakeServer(t, func([]byte) [][]byte { return nil })
	if ev := once(t, to, 50*time.Millisecond); ev.Err == nil || ev.Err.Error() != "no answer" {
		t.Errorf("%+v", ev)
	}
	if ev := once(t, to, 0); ev.Err == nil {
		t.Errorf("%+v", ev)
	}
}

func TestAClosedPortIsNamed(t *testing.T) {
	c, to := listen(t, loopback4)
	c.Close()
	if ev := once(t, to, 100*time.Millisecond); !errors.Is(ev.Err, unix.ECONNREFUSED) || !strings.HasPrefix(ev.Err.Error(), "no answer: ") {
		t.Errorf("%+v", ev)
	}
}

// asking is an Ask that runs.
type asking struct {
	cancel   func()
	answers  chan guard.Answered
	returned chan struct{}
}

func begin(t *testing.T, from, to netip.AddrPort, within time.Duration) asking {
	ctx, cancel := context.WithCancel(t.Context())
	a := asking{cancel, make(chan guard.Answered, 9), make(chan struct{})}
	go func() {
		asker := Asker{Now: sysclock.Mono}
		asker.Ask(ctx, guard.Ask{Key: 4, From: from, To: to, By: sysclock.Mono() + within}, func(ev guard.Answered) { a.answers <- ev })
		close(a.returned)
	}()
	return a
}

// freePort is an address and port that nobody uses now.
func freePort(t *testing.T) netip.AddrPort {
	c, at := listen(t, loopback4)
	c.Close()
	return at
}

func TestAskedFromTheGivenPortAndOnceAnswered(t *testing.T) {
	sources := make(chan netip.AddrPort, 9)
	to := serve(t, loopback4, func(req []byte, from netip.AddrPort) [][]byte {
		sources <- from
		return [][]byte{honest(req, 0), honest(req, 0)}
	})
	from := freePort(t)
	a := begin(t, from, to, 5*time.Second)
	if ev := <-a.answers; ev.Key != 4 || ev.Err != nil {
		t.Errorf("%+v", ev)
	}
	if got := <-sources; got != from {
		t.Errorf("asked from %s, not from %s", got, from)
	}
	if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(from)); err == nil {
		c.Close()
		t.Error("the port is free while the exchange lingers")
	}
	a.cancel()
	<-a.returned
	if len(a.answers) != 0 || len(sources) != 0 {
		t.Error("answered or asked twice")
	}
	if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(from)); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

// TestALateAnswerMeetsNoClosedPort: nothing goes back to a server that answers
// after the deadline, and nothing is kept, until the socket is closed.
func TestALateAnswerMeetsNoClosedPort(t *testing.T) {
	listening, to := listen(t, loopback4)
	a := begin(t, freePort(t), to, 200*time.Millisecond)
	req := make([]byte, 100)
	_, from, err := listening.ReadFromUDPAddrPort(req)
	if err != nil {
		t.Fatal(err)
	}
	if ev := <-a.answers; ev.Err == nil {
		t.Errorf("%+v", ev)
	}
	listening.Close()
	late, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(to), net.UDPAddrFromAddrPort(from))
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for range 3 {
		if _, err := late.Write(honest(req, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if kept := queued(t, from); kept != "00000000" {
		t.Errorf("%s bytes of late answers are kept", kept)
	}
	a.cancel()
	<-a.returned
	if len(a.answers) != 0 {
		t.Error("answered twice")
	}
	_, _ = late.Write(honest(req, 0))
	if _, err := late.Read(req); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port is not noticed by this test: %v", err)
	}
}

// queued is how many bytes wait at an IPv4 socket, in hexadecimal (proc_net_udp(5)).
func queued(t *testing.T, at netip.AddrPort) string {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 4 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", at.Port())) {
			_, kept, _ := strings.Cut(f[4], ":")
			return kept
		}
	}
	t.Fatalf("no socket at %s", at)
	return ""
}

func TestACancelledAskEndsAtOnce(t *testing.T) {
	asked := make(chan struct{}, 1)
	to := fakeServer(t, func([]byte) [][]byte {
		asked <- struct{}{}
		return nil
	})
	a := begin(t, freePort(t), to, time.Hour)
	<-asked
	a.cancel()
	<-a.returned
	if ev := <-a.answers; !errors.Is(ev.Err, context.Canceled) || len(a.answers) != 0 {
		t.Errorf("%+v", ev)
	}
}

func TestWithoutASocketTheCauseIsTold(t *testing.T) {
	_, taken := listen(t, loopback4)
	for from, want := range map[netip.AddrPort]error{
		taken: unix.EADDRINUSE,
		netip.MustParseAddrPort("192.0.2.1:40000"): unix.EADDRNOTAVAIL,
	} {
		a := begin(t, from, taken, time.Second)
		ev := <-a.answers
		if !errors.Is(ev.Err, want) || ev.Key != 4 || !strings.HasPrefix(ev.Err.Error(), "open socket from "+from.String()+" to "+taken.String()+": bind: ") {
			t.Errorf("%+v", ev)
		}
		<-a.returned
	}
}

func TestManyAtOnce(t *testing.T) {
	var group sync.WaitGroup
	for i := range 16 {
		ahead := time.Duration(i) * time.Minute
		to := fakeServer(t, func(req []byte) [][]byte { return [][]byte{honest(req, ahead)} })
		group.Add(1)
		go func() {
			defer group.Done()
			if ev := once(t, to, 10*time.Second); ev.Err != nil || (ev.Sample.Offset-ahead).Abs() > 10*time.Second {
				t.Errorf("%+v", ev)
			}
		}()
	}
	group.Wait()
}

func BenchmarkExchange(b *testing.B) {
	to := fakeServer(b, func(req []byte) [][]byte { return [][]byte{honest(req, 0)} })
	b.ReportAllocs()
	var worst time.Duration
	for b.Loop() {
		ev := once(b, to, 5*time.Second)
		if ev.Err != nil {
			b.Fatal(ev.Err)
		}
		worst = max(worst, ev.Sample.Offset.Abs())
	}
	b.ReportMetric(float64(worst.Microseconds()), "µs-worst-offset")
}
