package query

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/guardtest"
	"ntpveil/guard/sysclock"
)

// TestMain lets the tests run in a network namespace of their own too.
func TestMain(m *testing.M) {
	if err := guardtest.Loopback(); err != nil {
		panic(err)
	}
	m.Run()
}

var loopback4 = netip.MustParseAddrPort("127.0.0.1:0")

func listen(t testing.TB, at netip.AddrPort) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// serve answers each request that comes to an address with what reply makes of it.
func serve(t testing.TB, at netip.AddrPort, reply func(req []byte, from netip.AddrPort) [][]byte) netip.AddrPort {
	t.Helper()
	c, at := listen(t, at)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, b := range reply(buf[:n], from) {
				_, _ = c.WriteToUDPAddrPort(b, from)
			}
		}
	}()
	return at
}

// fakeServer is one on 127.0.0.1.
func fakeServer(t testing.TB, reply func(req []byte) [][]byte) netip.AddrPort {
	t.Helper()
	return serve(t, loopback4, func(req []byte, _ netip.AddrPort) [][]byte { return reply(req) })
}

// once asks from wherever the kernel likes.
func once(t testing.TB, to netip.AddrPort, timeout time.Duration) guard.Answered {
	t.Helper()
	return Once(t.Context(), to, sysclock.Mono, timeout)
}

// stampOf is a timestamp of NTP, whose seconds begin anew in each era.
func stampOf(t time.Time) uint64 {
	return uint64(t.Unix()+2208988800)<<32 | uint64(t.Nanosecond())<<32/1e9
}

// reply is a right answer, of a server whose clock shows receive and transmit.
func reply(origin [8]byte, receive, transmit time.Time) []byte {
	b := make([]byte, headerLen)
	b[0], b[1], b[atPrecision] = 0x24, 2, 0xe9 // 2^-23 s: 119 ns
	b[atRootDelay+3], b[atRootDisp+3] = 0x80, 0x40
	copy(b[atRefID:], []byte{192, 0, 2, 77})
	copy(b[atOrigin:], origin[:])
	binary.BigEndian.PutUint64(b[atReference:], stampOf(receive.Add(-time.Minute)))
	binary.BigEndian.PutUint64(b[atReceive:], stampOf(receive))
	binary.BigEndian.PutUint64(b[atTransmit:], stampOf(transmit))
	return b
}

// honest is a right answer whose clock is ahead.
func honest(req []byte, ahead time.Duration) []byte {
	now := time.Now().Add(ahead)
	return reply([8]byte(req[atTransmit:]), now, now)
}

// edited is an honest answer after a change.
func edited(req []byte, edit func(b []byte)) []byte {
	b := honest(req, 0)
	edit(b)
	return b
}
