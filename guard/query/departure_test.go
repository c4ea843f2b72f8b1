package query

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"ntpveil/guard/sysclock"
)

// TestTheKernelSaysWhenTheQueryLeft, on both families, whoever forges an ICMP
// error meanwhile (TestAForgedErrorEndsNothing).
func TestTheKernelSaysWhenTheQueryLeft(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		to := serve(t, netip.MustParseAddrPort(at), func(req []byte, _ netip.AddrPort) [][]byte { return [][]byte{honest(req, 0)} })
		c := open4(t, to)
		a := Asker{Now: sysclock.Mono}
		s, err := a.measure(wire{c}, c, to)
		if err != nil {
			t.Fatal(err)
		}
		if !c.left.After(c.sent.wall) || !c.left.Before(c.arrived) {
			t.Errorf("%s: left %s after our reading, arrived %s after it", at, c.left.Sub(c.sent.wall), c.arrived.Sub(c.sent.wall))
		}
		if most := c.arrived.Sub(c.left); s.Delay > most {
			t.Errorf("%s: delay %s, it took %s", at, s.Delay, most)
		}
	}
}

func TestTheStampOfTheQueryCounts(t *testing.T) {
	const waited, there, back = 400 * time.Microsecond, 3 * time.Millisecond, 5 * time.Millisecond
	arrived := noon.Add(waited + there)
	for name, tt := range map[string]struct {
		left  time.Time
		want  time.Duration // offset
		delay time.Duration
	}{
		"it waited":             {noon.Add(waited), (there - back) / 2, there + back},
		"no stamp":              {time.Time{}, (waited + there - back) / 2, waited + there + back},
		"before our reading":    {noon.Add(-1), (waited + there - back) / 2, waited + there + back},
		"after the answer came": {noon.Add(waited + there + back + 1), (waited + there - back) / 2, waited + there + back},
	} {
		p := exchange(reply(nonce, arrived, arrived), waited+there+back)
		p.left = tt.left
		s, err := p.measure()
		if err != nil || !near(s.Offset, tt.want) || !near(s.Delay, tt.delay) {
			t.Errorf("%s: offset %s, delay %s, %v", name, s.Offset, s.Delay, err)
		}
	}
}

// errorQueue is a message of a socket's error queue: a stamp and what it is of.
func errorQueue(level, kind int32, at time.Time, edit func(e []byte)) []byte {
	stamp := make([]byte, 48)
	binary.NativeEndian.PutUint64(stamp, uint64(at.Unix()))
	binary.NativeEndian.PutUint64(stamp[8:], uint64(at.Nanosecond()))
	e := make([]byte, errorLen+16)
	binary.NativeEndian.PutUint32(e, uint32(unix.ENOMSG))
	e[4] = unix.SO_EE_ORIGIN_TIMESTAMPING
	edit(e)
	return append(control(unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, stamp), control(level, kind, e)...)
}

// control is a control message.
func control(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func TestOnlyTheStampOfOurQueryIsRead(t *testing.T) {
	for name, tt := range map[string]struct {
		level, kind int32
		edit        func(e []byte)
		want        time.Time
	}{
		"IPv4":                  {unix.SOL_IP, unix.IP_RECVERR, func([]byte) {}, noon},
		"IPv6":                  {unix.SOL_IPV6, unix.IPV6_RECVERR, func([]byte) {}, noon},
		"of another datagram":   {unix.SOL_IP, unix.IP_RECVERR, func(e []byte) { e[12] = 1; e[15] = 1 }, time.Time{}},
		"made when it was sent": {unix.SOL_IP, unix.IP_RECVERR, func(e []byte) { e[8], e[11] = unix.SCM_TSTAMP_SCHED, unix.SCM_TSTAMP_SCHED }, time.Time{}},
		"an ICMP error":         {unix.SOL_IP, unix.IP_RECVERR, func(e []byte) { e[4] = unix.SO_EE_ORIGIN_ICMP }, time.Time{}},
		"an ICMPv6 error":       {unix.SOL_IPV6, unix.IPV6_RECVERR, func(e []byte) { e[4] = unix.SO_EE_ORIGIN_ICMP6 }, time.Time{}},
		"another error":         {unix.SOL_IP, unix.IP_RECVERR, func(e []byte) { e[0], e[3] = byte(unix.ECONNREFUSED), byte(unix.ECONNREFUSED) }, time.Time{}},
		"of no error":           {unix.SOL_IP, unix.IP_TTL, func([]byte) {}, time.Time{}},
	} {
		if got := firstLeft(errorQueue(tt.level, tt.kind, noon, tt.edit)); !got.Equal(tt.want) {
			t.Errorf("%s: %s, not %s", name, got, tt.want)
		}
	}
}

// FuzzControlMessages: whatever the kernel says, reading it ends.
func FuzzControlMessages(f *testing.F) {
	whole := errorQueue(unix.SOL_IP, unix.IP_RECVERR, noon, func([]byte) {})
	f.Add(whole)
	f.Add(whole[:len(whole)-errorLen])
	f.Fuzz(func(t *testing.T, oob []byte) {
		was := bytes.Clone(oob)
		firstLeft(oob)
		arrival(oob)
		if !bytes.Equal(oob, was) {
			t.Error("changed what it read")
		}
	})
}

// BenchmarkTransmitStamp asks a chronyd that has the same clock, so that every
// offset is an error, at rest and beside two programs that never rest. Each
// exchange is judged with the stamp of its query and without.
func BenchmarkTransmitStamp(b *testing.B) {
	chronyd, err := exec.LookPath("chronyd")
	if err != nil {
		b.Skip("chronyd is not installed (make setup installs it)")
	}
	for _, busy := range []int{0, 2} {
		b.Run(fmt.Sprintf("busy-%d", busy), func(b *testing.B) {
			for range busy {
				cmd := exec.CommandContext(b.Context(), "sh", "-c", "while :; do :; done")
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = cmd.Wait() })
			}
			done, dir := make(chan error), b.TempDir()
			go func() {
				runtime.LockOSThread() // and the thread ends with its namespace
				done <- inOwnNet(chronyd, dir, func() error { return compareStamps(b, netip.MustParseAddrPort("[::1]:123")) })
			}()
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// compareStamps makes exchanges, with pauses in which the caches cool: what
// follows another by a millisecond is sent much faster than a query every minute.
func compareStamps(b *testing.B, to netip.AddrPort) error {
	var with, without []time.Duration
	for failed := 0; len(with) < b.N; time.Sleep(30 * time.Millisecond) {
		c, err := dial(b.Context(), netip.AddrPort{}, to, "", sysclock.Mono)
		if err != nil {
			return err
		}
		_ = c.udp.SetReadDeadline(time.Now().Add(time.Second))
		a := Asker{Now: sysclock.Mono}
		s, err := a.measure(wire{c}, c, to)
		_ = c.udp.Close()
		if failed++; err != nil && failed > 100 {
			return errors.Join(errors.New("chronyd does not answer"), err)
		} else if err != nil {
			continue
		}
		failed = 0
		with = append(with, s.Offset.Abs())
		without = append(without, (s.Offset + c.left.Sub(c.sent.wall)/2).Abs())
	}
	for name, errs := range map[string][]time.Duration{"with": with, "without": without} {
		slices.Sort(errs)
		b.ReportMetric(float64(errs[len(errs)/2].Nanoseconds())/1e3, "µs-median-"+name)
		b.ReportMetric(float64(errs[len(errs)*99/100].Nanoseconds())/1e3, "µs-p99-"+name)
	}
	return nil
}
