package nft

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flow is a world with one layout, and its sender.
type flow struct {
	layout
	w         *wire
	own       int                  // a socket of the host
	known     *burst               // of connections that the host has begun
	miss, hit *burst               // of strangers
	cost      map[string][]float64 // of a packet, ns, by kind
}

// burst is frames that are sent with one system call, again and again.
type burst struct {
	frames [][]byte
	iov    []unix.Iovec
	msgs   []mmsghdr
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

const perBurst = 512

// newBurst is packets from sources that follow from a number.
func (w *wire) newBurst(source func(i int) netip.Addr, packet func(from netip.Addr) (next byte, payload []byte)) *burst {
	b := &burst{iov: make([]unix.Iovec, perBurst), msgs: make([]mmsghdr, perBurst)}
	for i := range perBurst {
		from := source(i)
		next, payload := packet(from)
		frame := append(append(append([]byte{}, w.mac...), router...), 0x86, 0xdd, 0x60, 0, 0, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(payload)))
		frame = append(append(append(frame, next, 64), from.AsSlice()...), stable.AsSlice()...)
		b.frames = append(b.frames, append(frame, payload...))
		b.iov[i].Base = &b.frames[i][0]
		b.iov[i].SetLen(len(b.frames[i]))
		b.msgs[i].hdr.Iov = &b.iov[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}

// fire sends a burst; the host has dealt with every packet when it returns, for a
// veth's other end works in the call that sends.
func (w *wire) fire(b *burst) (time.Duration, error) {
	begun := time.Now()
	for sent := 0; sent < perBurst; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(w.fd), uintptr(unsafe.Pointer(&b.msgs[sent])), uintptr(perBurst-sent), 0, 0, 0)
		if errno != 0 {
			return 0, errno
		}
		sent += int(n)
	}
	return time.Since(begun), nil
}

// newFlow lays a layout in a host of its own. Misses go to a UDP socket whose buffer is
// full, so that each costs what a packet costs that arrives; hits are SYN to a closed
// port, which are answered where nothing blocks them.
func newFlow(t *testing.T, l layout) *flow {
	w := newWire(t)
	w.host.nft(t, hostFirewall, "-f", "-")
	must(t, unix.Bind(w.fd, &unix.SockaddrLinklayer{Ifindex: w.ifindex(t)})) // from now on it sends only
	must(t, unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	w.full(t, 9000)
	own := w.full(t, 9001)
	if l.load != nil {
		l.load(t, w.host, l.prefixes)
	}
	step := max(l.prefixes, 1)
	return &flow{layout: l, w: w, cost: map[string][]float64{},
		own: own, known: w.newBurst(friend, datagramTo(9001)), miss: w.newBurst(strange, datagramTo(9000)),
		hit: w.newBurst(func(i int) netip.Addr { return blockedAt(i * 7919 % step).Addr() },
			func(from netip.Addr) (byte, []byte) { return 6, syn(from, stable, 81) }),
	}
}

func datagramTo(port uint16) func(netip.Addr) (byte, []byte) {
	return func(from netip.Addr) (byte, []byte) {
		return 17, udp(netip.AddrPortFrom(from, 4000), netip.AddrPortFrom(stable, port))
	}
}

// full opens a socket of the host whose buffer is always full.
func (w *wire) full(t *testing.T, port int) (fd int) {
	t.Helper()
	w.host.in(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1), unix.Bind(fd, &unix.SockaddrInet6{Port: port, Addr: stable.As16()}))
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

// measure is one run: what a packet of each kind costs by the quicker half of the
// bursts, for whatever else the machine does only adds to a burst.
func (f *flow) measure(t *testing.T, bursts int) {
	f.greet(t)
	for kind, b := range map[string]*burst{"known": f.known, "miss": f.miss, "hit": f.hit} {
		var took []float64
		for range bursts {
			d, err := f.w.fire(b)
			must(t, err)
			took = append(took, float64(d.Nanoseconds())/perBurst)
		}
		slices.Sort(took)
		f.cost[kind] = append(f.cost[kind], took[bursts/4])
	}
}
