package query

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// udpHeader is what a filter on a UDP socket sees before the payload.
const udpHeader = 8

// open makes a socket bound to an address and port, connected to a server, that
// hears only what repeats the nonce. A source that is unspecified or missing
// leaves the choice to the kernel. No option that shows on the wire is set. With a
// device it sends and hears by that one alone.
func open(ctx context.Context, from, to netip.AddrPort, device string, nonce [8]byte) (*net.UDPConn, error) {
	what := "open socket to " + to.String()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error { return prepare(raw, device, nonce) }}
	if from.IsValid() {
		d.LocalAddr, what = net.UDPAddrFromAddrPort(from), fmt.Sprintf("open socket from %s to %s", from, to)
	}
	c, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, cause(err))
	}
	return c.(*net.UDPConn), nil
}

// cause leaves out what net says of the addresses.
func cause(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys
	}
	return err
}

// prepare has the kernel stamp what arrives (the error of the offset is 3 µs with
// it and 13 µs without, on an idle machine) and what leaves, and drop what does
// not answer: without the filter, some 300 forged datagrams in a row fill the
// socket's buffer, and the right one is lost.
func prepare(raw syscall.RawConn, device string, nonce [8]byte) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		err = os.NewSyscallError("setsockopt SO_TIMESTAMPNS", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1))
		if err == nil {
			err = attach(int(fd), onlyAnswers(nonce))
		}
		if err == nil && device != "" {
			err = os.NewSyscallError("setsockopt SO_BINDTODEVICE", unix.BindToDevice(int(fd), device))
		}
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, stamps) // without it: the time before the sending
	}); e != nil {
		return e
	}
	return err
}

// onlyAnswers keeps a datagram whose origin timestamp is the nonce. A load from
// behind a datagram's end drops it.
func onlyAnswers(nonce [8]byte) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: udpHeader + atOrigin, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(nonce[:4]), SkipTrue: 3},
		bpf.LoadAbsolute{Off: udpHeader + atOrigin + 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(nonce[4:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	}
}

// deafen has the kernel drop whatever else arrives. Should it fail, the socket's
// buffer bounds what is kept.
func deafen(c *net.UDPConn) {
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = attach(int(fd), []bpf.Instruction{bpf.RetConstant{Val: 0}}) })
	}
}

func attach(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
}

// dropped is how many datagrams the kernel dropped at a socket: the last of the
// nine counters of SO_MEMINFO (SK_MEMINFO_DROPS). 0 where it will not tell.
func dropped(c *net.UDPConn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		var info [9]uint32
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 && size == uint32(unsafe.Sizeof(info)) {
			n = int(info[8])
		}
	})
	return n
}

// arrival is the kernel's receive timestamp in control messages; zero if there is none.
func arrival(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS_NEW {
			return stampIn(m.Data)
		}
	}
	return time.Time{}
}
