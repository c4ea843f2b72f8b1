package query

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/sysclock"
)

// open4 opens an exchange that a test looks into.
func open4(t *testing.T, to netip.AddrPort) *conn {
	t.Helper()
	c, err := dial(t.Context(), netip.AddrPort{}, to, "", sysclock.Mono)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.udp.Close() })
	if err := c.udp.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// slow reads 50 ms after the answer has come.
type slow struct{ wire }

func (s slow) Read(b []byte) (int, error) {
	raw, err := s.udp.SyscallConn()
	if err != nil {
		return 0, err
	}
	if err := raw.Read(func(fd uintptr) bool {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err == nil
	}); err != nil {
		return 0, err
	}
	<-time.After(50 * time.Millisecond)
	return s.wire.Read(b)
}

func TestTheKernelsStampCounts(t *testing.T) {
	to := fakeServer(t, func(req []byte) [][]byte { return [][]byte{honest(req, 0)} })
	c := open4(t, to)
	a := Asker{Now: sysclock.Mono}
	s, err := a.measure(slow{wire{c}}, c, to)
	if err != nil {
		t.Fatal(err)
	}
	if late := c.read.wall.Sub(c.arrived); late < 45*time.Millisecond || s.Delay > c.arrived.Sub(c.sent.wall) {
		t.Errorf("read %s after it arrived, delay %s of %s", late, s.Delay, c.arrived.Sub(c.sent.wall))
	}
	if late := c.read.mono - s.At; late < 45*time.Millisecond {
		t.Errorf("the sample is of %s before it was read", late)
	}
}

func TestAfterwardsTheSocketIsDeaf(t *testing.T) {
	server, to := listen(t, loopback4)
	c := open4(t, to)
	if _, err := c.Write(make([]byte, headerLen)); err != nil {
		t.Fatal(err)
	}
	req := make([]byte, 100)
	_, from, err := server.ReadFromUDPAddrPort(req)
	if err != nil {
		t.Fatal(err)
	}
	deafen(c.udp)
	for range 1000 {
		if _, err := server.WriteToUDPAddrPort(honest(req, 0), from); err != nil {
			t.Fatal(err)
		}
	}
	if n := dropped(c.udp); n != 1000 {
		t.Errorf("%d of 1000 late answers were dropped by the kernel", n)
	}
}

// TestAForgedErrorEndsNothing: a port-unreachable comes before the answer.
func TestAForgedErrorEndsNothing(t *testing.T) {
	raw, err := net.Dial("ip4:icmp", "127.0.0.1")
	if errors.Is(err, os.ErrPermission) {
		t.Skip("forging ICMP takes CAP_NET_RAW")
	} else if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	server, to := listen(t, loopback4)
	go func() {
		req := make([]byte, 100)
		_, from, err := server.ReadFromUDPAddrPort(req)
		if err != nil {
			return
		}
		_, _ = raw.Write(portUnreachable(from, to))
		_, _ = server.WriteToUDPAddrPort(honest(req, 0), from)
	}()
	c := open4(t, to)
	a := Asker{Now: sysclock.Mono}
	if _, err := a.measure(wire{c}, c, to); err != nil {
		t.Error(err)
	}
	if !c.left.After(c.sent.wall) {
		t.Error("the stamp of the query was lost to the forged error")
	}
	if !errors.Is(c.icmp, unix.ECONNREFUSED) {
		t.Errorf("the forged error did not arrive: %v", c.icmp)
	}
}

// portUnreachable is an ICMP message about a datagram (RFC 792).
func portUnreachable(from, to netip.AddrPort) []byte {
	ip := make([]byte, 20)
	ip[0], ip[3], ip[8], ip[9] = 0x45, 20+8+headerLen, 64, unix.IPPROTO_UDP
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	udp := make([]byte, 8)
	binary.BigEndian.PutUint16(udp, from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], 8+headerLen)
	b := append(append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, ip...), udp...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}
