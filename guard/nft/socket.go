package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bufferSize = 8 << 20
	// The kernel answers within the system call that asks; waiting longer means that
	// an answer was lost.
	answerWithin = 5 * time.Second
	headerSize   = unix.SizeofNlMsghdr
	// A list comes in datagrams of 32 KiB at most.
	largestDatagram = 64 << 10
)

// socket is a netlink socket that blocks, which costs nothing where every answer is
// there before it is read. Through the runtime's poller and its timers the same
// exposure took three times as long.
type socket struct {
	fd   int
	port uint32
	seq  uint32
	in   []byte
}

// openSocket opens a socket in a network namespace; 0 is the caller's own.
func openSocket(netns int) (*socket, error) {
	if netns == 0 {
		return newSocket()
	}
	var s *socket
	done := make(chan error)
	go func() {
		runtime.LockOSThread()              // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() { // but the first one never ends: it is held while another works
			defer runtime.UnlockOSThread()
			var err error
			s, err = openSocket(netns)
			done <- err
			return
		}
		err := unix.Setns(netns, unix.CLONE_NEWNET)
		if err == nil {
			s, err = newSocket()
		}
		done <- err
	}()
	err := <-done
	return s, err
}

func newSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	s := &socket{fd: fd, in: make([]byte, largestDatagram)}
	if err := s.setUp(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *socket) setUp() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	at, err := unix.Getsockname(s.fd)
	if err != nil {
		return err
	}
	s.port = at.(*unix.SockaddrNetlink).Pid
	wait := unix.NsecToTimeval(answerWithin.Nanoseconds())
	return errors.Join(
		setBuffer(s.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF), setBuffer(s.fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF),
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
}

// setBuffer sets a buffer beyond the system's limit where that is allowed.
func setBuffer(fd, force, plain int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, bufferSize) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, bufferSize)
}

func (s *socket) close() error { return unix.Close(s.fd) }

// append writes a message behind others and returns its sequence number.
func (s *socket) append(b []byte, typ, flags uint16, data ...[]byte) ([]byte, uint32) {
	s.seq++
	start := len(b)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	for _, d := range data {
		b = append(b, d...)
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b, s.seq
}

func (s *socket) send(b []byte) error {
	return unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// heard is one message of the kernel's. data is valid until the next receive.
type heard struct {
	typ, flags uint16
	seq        uint32
	data       []byte
}

// receive waits for one datagram and hands over its messages.
func (s *socket) receive(each func(heard)) error {
	n, _, err := unix.Recvfrom(s.fd, s.in, unix.MSG_TRUNC)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case errors.Is(err, unix.EAGAIN):
		return ErrNoAnswer
	case err != nil:
		return err
	case n > len(s.in):
		return fmt.Errorf("netlink message of %d bytes: %w", n, unix.EMSGSIZE)
	}
	for b := s.in[:n]; len(b) >= headerSize; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < headerSize || size > len(b) {
			return fmt.Errorf("netlink message cut short: %w", unix.EBADMSG)
		}
		each(heard{typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), data: b[headerSize:size]})
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// result is the error number in a message of type error or done; nil is success.
func (h heard) result() error {
	if len(h.data) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(h.data)); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
