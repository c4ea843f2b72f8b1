package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flow is a host with one layout, and its sender.
type flow struct {
	w         *wire
	own       int    // the socket that the known ones come to
	known     *burst // of connections that the host has begun
	miss, hit *burst // of strangers
}

// burst is frames that are sent with few system calls, again and again.
type burst struct {
	frames [][]byte
	msgs   []mmsghdr
	reader int // the socket that they come to; -1: none
	read   []mmsghdr
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

const perBurst, perCall = 512, 128

// messages have an I/O vector each.
func messages() []mmsghdr {
	list, iov := make([]mmsghdr, perBurst), make([]unix.Iovec, perBurst)
	for i := range list {
		list[i].hdr.Iov = &iov[i]
		list[i].hdr.SetIovlen(1)
	}
	return list
}

// newBurst is packets from sources that follow from a number.
func (w *wire) newBurst(reader int, source func(i int) netip.Addr, packet func(from netip.Addr) (next byte, payload []byte)) *burst {
	b := &burst{msgs: messages(), reader: reader, read: messages()}
	for i := range perBurst {
		from := source(i)
		next, payload := packet(from)
		frame := append(append(append([]byte{}, w.mac...), router...), 0x86, 0xdd, 0x60, 0, 0, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(payload)))
		frame = append(append(append(frame, next, 64), from.AsSlice()...), stable.AsSlice()...)
		b.frames = append(b.frames, append(frame, payload...))
		b.msgs[i].hdr.Iov.Base = &b.frames[i][0]
		b.msgs[i].hdr.Iov.SetLen(len(b.frames[i]))
		b.read[i].hdr.Iov.Base = &make([]byte, 64)[0]
		b.read[i].hdr.Iov.SetLen(64)
	}
	return b
}

// fire sends a burst and reads what of it comes to the host's program, as much at a time
// as any socket has room for. The host has dealt with every packet that was sent, for a
// veth's other end works in the call that sends.
func (w *wire) fire(b *burst) (time.Duration, error) {
	begun := time.Now()
	for at := 0; at < perBurst; at += perCall {
		if err := all(unix.SYS_SENDMMSG, w.fd, b.msgs[at:at+perCall], 0); err != nil {
			return 0, err
		}
		if b.reader < 0 {
			continue
		}
		if err := all(unix.SYS_RECVMMSG, b.reader, b.read[at:at+perCall], unix.MSG_DONTWAIT); err != nil {
			return 0, err
		}
	}
	return time.Since(begun), nil
}

// all sends or receives all messages.
func all(call uintptr, fd int, list []mmsghdr, flags uintptr) error {
	for len(list) > 0 {
		n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&list[0])), uintptr(len(list)), flags, 0, 0)
		if errno != 0 {
			return errno
		}
		list = list[n:]
	}
	return nil
}

// newFlow lays a layout in a host of its own. Known packets and misses are datagrams that
// a program reads; hits are SYN to a closed port, which are answered where nothing blocks
// them.
func newFlow(t *testing.T, l layout) *flow {
	w := newWire(t)
	w.host.nft(t, hostFirewall, "-f", "-")
	must(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Ifindex: w.ifindex(t)})) // from now on it sends only
	must(t, unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	other, own := w.socket(t, 9000), w.socket(t, 9001)
	if l.load != nil {
		l.load(t, w.host, l.prefixes)
	}
	step := max(l.prefixes, 1)
	return &flow{w: w, own: own, known: w.newBurst(own, friend, datagramTo(9001)), miss: w.newBurst(other, strange, datagramTo(9000)),
		hit: w.newBurst(-1, func(i int) netip.Addr { return blockedAt(i * 7919 % step).Addr() },
			func(from netip.Addr) (byte, []byte) { return 6, syn(from, stable, 81) }),
	}
}

func datagramTo(port uint16) func(netip.Addr) (byte, []byte) {
	return func(from netip.Addr) (byte, []byte) {
		return 17, udp(netip.AddrPortFrom(from, 4000), netip.AddrPortFrom(stable, port))
	}
}

// socket opens one of the host.
func (w *wire) socket(t *testing.T, port int) (fd int) {
	t.Helper()
	w.host.in(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet6{Port: port, Addr: stable.As16()})
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// greet has the host send to everyone it knows, since conntrack forgets.
func (f *flow) greet(t *testing.T) {
	t.Helper()
	for i := range perBurst {
		must(t, unix.Sendto(f.own, []byte("time"), 0, &unix.SockaddrInet6{Port: 4000, Addr: friend(i).As16()}))
	}
}

func friend(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x26, 1, byte(i * 37), byte(i >> 8), byte(i), 9, 15: 1})
}

func strange(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x26, 0, byte(i * 37), byte(i >> 8), byte(i), 9, 15: 1})
}

func (w *wire) ifindex(t *testing.T) int {
	t.Helper()
	at, err := unix.Getsockname(w.fd)
	must(t, err)
	return at.(*unix.SockaddrLinklayer).Ifindex
}

// measure is what a packet of each kind costs, in ns, by the quicker half of the bursts, for
// whatever else the machine does only adds to a burst.
func (f *flow) measure(t *testing.T, bursts int) map[string]float64 {
	f.greet(t)
	cost := map[string]float64{}
	for kind, b := range map[string]*burst{"known": f.known, "miss": f.miss, "hit": f.hit} {
		var took []float64
		for range bursts {
			d, err := f.w.fire(b)
			must(t, err)
			took = append(took, float64(d.Nanoseconds())/perBurst)
		}
		slices.Sort(took)
		cost[kind] = took[bursts/4]
	}
	return cost
}
