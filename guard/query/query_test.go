package query

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/sysclock"
)

// fakeServer answers each request with the datagrams that reply makes of it.
func fakeServer(t testing.TB, reply func(req []byte) [][]byte) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, b := range reply(buf[:n]) {
				_, _ = c.WriteToUDPAddrPort(b, from)
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

const ntpEpoch = 2208988800 // seconds from 1900 to 1970

func stampOf(t time.Time) uint64 {
	return uint64(t.Unix()+ntpEpoch)<<32 | uint64(t.Nanosecond())<<32/1e9
}

// honest is a right answer whose clock is ahead.
func honest(req []byte, ahead time.Duration) []byte {
	b := make([]byte, 48)
	b[0], b[1], b[3] = 0x24, 2, 0xe9 // -23: 120 ns
	copy(b[12:], "GPS\x00")
	copy(b[24:32], req[40:48])
	at := stampOf(time.Now().Add(ahead))
	binary.BigEndian.PutUint64(b[16:], at-1<<32)
	binary.BigEndian.PutUint64(b[32:], at)
	binary.BigEndian.PutUint64(b[40:], at)
	return b
}

// edited is an honest answer after a change.
func edited(req []byte, edit func(b []byte)) []byte {
	b := honest(req, 0)
	edit(b)
	return b
}

func once(t *testing.T, to netip.AddrPort, timeout time.Duration) guard.Answered {
	t.Helper()
	return Once(t.Context(), to, sysclock.Mono, timeout)
}

func TestOffsetAndDelay(t *testing.T) {
	to := fakeServer(t, func(req []byte) [][]byte { return [][]byte{honest(req, 5*time.Second)} })
	ev := once(t, to, time.Second)
	if ev.Err != nil {
		t.Fatal(ev.Err)
	}
	s := ev.Sample
	if (s.Offset-5*time.Second).Abs() > 50*time.Millisecond || s.Delay < 0 || s.Delay > 50*time.Millisecond || s.Stratum != 2 || s.Server != to {
		t.Errorf("%+v", s)
	}
	if now := sysclock.Mono(); s.At > now || s.At < now-10*time.Second {
		t.Errorf("taken at %s, now %s", s.At, now)
	}
}

func TestStraysAreReadPast(t *testing.T) {
	to := fakeServer(t, func(req []byte) [][]byte {
		var out [][]byte
		for range 300 {
			out = append(out, []byte("garbage"), make([]byte, 48))
		}
		return append(out,
			edited(req, func(b []byte) { b[24]++ }),     // another origin
			edited(req, func(b []byte) { b[0] = 0x23 }), // a request
			edited(req, func(b []byte) { b[0] = 0x0c }), // version 1
			append(honest(req, time.Hour), 1),           // no multiple of four
			honest(req, time.Second))
	})
	ev := once(t, to, 5*time.Second)
	if ev.Err != nil || (ev.Sample.Offset-time.Second).Abs() > 500*time.Millisecond {
		t.Errorf("%+v", ev)
	}
}

func TestAFloodEndsTheExchange(t *testing.T) {
	to := fakeServer(t, func([]byte) [][]byte {
		out := make([][]byte, 0, 3*patience)
		for range cap(out) {
			out = append(out, make([]byte, 48))
		}
		return out
	})
	if ev := once(t, to, 2*time.Second); ev.Err == nil {
		t.Errorf("%+v", ev)
	}
}

func TestKisses(t *testing.T) {
	for _, code := range []string{"DENY", "RATE", "RSTR"} {
		to := fakeServer(t, func(req []byte) [][]byte {
			forged := edited(req, func(b []byte) { b[1] = 0; b[25]++; copy(b[12:], "RATE") })
			return [][]byte{forged, edited(req, func(b []byte) { b[1] = 0; copy(b[12:], code); clear(b[32:48]) })}
		})
		if ev := once(t, to, time.Second); ev.Kiss != code || ev.Err != nil {
			t.Errorf("%s: %+v", code, ev)
		}
	}
}

func TestHostileAnswersYieldNoSample(t *testing.T) {
	for name, edit := range map[string]func(b []byte){
		"unsynchronised leap":     func(b []byte) { b[0] |= 0xc0 },
		"stratum 16":              func(b []byte) { b[1] = 16 },
		"a kiss in small letters": func(b []byte) { b[1] = 0; copy(b[12:], "rate") },
		"no transmit timestamp":   func(b []byte) { clear(b[40:48]) },
		"no receive timestamp":    func(b []byte) { clear(b[32:40]) },
		"sent before received":    func(b []byte) { b[35]++ },
		"held for a minute":       func(b []byte) { b[43] += 60 },
	} {
		to := fakeServer(t, func(req []byte) [][]byte { return [][]byte{edited(req, edit)} })
		if ev := once(t, to, time.Second); ev.Err == nil || ev.Kiss != "" {
			t.Errorf("%s: %+v", name, ev)
		}
	}
}

func TestSilenceEndsAtTheDeadline(t *testing.T) {
	to := fakeServer(t, func([]byte) [][]byte { return nil })
	if ev := once(t, to, 50*time.Millisecond); ev.Err == nil || !strings.Contains(ev.Err.Error(), "no answer") {
		t.Errorf("%+v", ev)
	}
}

func TestAClosedPortIsNamed(t *testing.T) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	to := c.LocalAddr().(*net.UDPAddr).AddrPort()
	c.Close()
	if ev := once(t, to, 100*time.Millisecond); ev.Err == nil || !strings.Contains(ev.Err.Error(), "refused") {
		t.Errorf("%+v", ev)
	}
}

// TestTheSocketStays: answered once, then open until told otherwise.
func TestTheSocketStays(t *testing.T) {
	to := fakeServer(t, func(req []byte) [][]byte { return [][]byte{honest(req, 0), honest(req, 0)} })
	free, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	from := free.LocalAddr().(*net.UDPAddr).AddrPort()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	answers, returned := make(chan guard.Answered, 9), make(chan struct{})
	a := Asker{Now: sysclock.Mono}
	go func() {
		a.Ask(ctx, guard.Ask{Key: 4, From: from, To: to, By: sysclock.Mono() + 5*time.Second}, func(ev guard.Answered) { answers <- ev })
		close(returned)
	}()
	if ev := <-answers; ev.Key != 4 || ev.Err != nil {
		t.Errorf("%+v", ev)
	}
	if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(from)); err == nil {
		c.Close()
		t.Error("the port is free while the exchange lingers")
	}
	cancel()
	<-returned
	if len(answers) != 0 {
		t.Error("answered twice")
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	from := taken.LocalAddr().(*net.UDPAddr).AddrPort()
	got := make(chan guard.Answered, 1)
	a := Asker{Now: sysclock.Mono}
	a.Ask(t.Context(), guard.Ask{From: from, To: from, By: sysclock.Mono() + time.Second}, func(ev guard.Answered) { got <- ev })
	if ev := <-got; ev.Err == nil || !strings.Contains(ev.Err.Error(), "in use") {
		t.Errorf("%+v", ev)
	}
}

// FuzzAnswer: whatever a server sends with the right origin, no panic, and no
// sample with a field out of bounds.
func FuzzAnswer(f *testing.F) {
	var answer atomic.Pointer[[]byte]
	to := fakeServer(f, func(req []byte) [][]byte {
		b := slices.Clone(*answer.Load())
		if len(b) >= 32 {
			copy(b[24:32], req[40:48])
		}
		return [][]byte{b}
	})
	f.Add(honest(make([]byte, 48), 0))
	f.Add(make([]byte, 48))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		answer.Store(&b)
		ev := once(t, to, 10*time.Millisecond)
		if ev.Err != nil || ev.Kiss != "" {
			return
		}
		s := ev.Sample
		if s.Delay < 0 || s.Dispersion < 0 || s.Precision <= 0 || s.Precision > time.Second || s.RootDelay < 0 || s.RootDisp < 0 || s.Stratum < 1 || s.Stratum > 15 || s.Leap > 2 {
			t.Errorf("%+v", s)
		}
	})
}
