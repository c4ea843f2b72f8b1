package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// batch keeps the sockets that are open at once below the usual limit of 1024.
const batch = 800

// probe runs on the thread of the node: its sockets are polled together, so
// that a thousand ports need one thread.
func (s Scan) probe(ctx context.Context) ([]Found, error) {
	all := s.list()
	for from := 0; from < len(all); from += batch {
		if err := s.round(ctx, all[from:min(from+batch, len(all))]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (s Scan) list() (all []Found) {
	for _, p := range s.TCP {
		all = append(all, Found{"tcp", p, Filtered})
	}
	for _, p := range s.UDP {
		all = append(all, Found{"udp", p, Filtered})
	}
	if s.Echo {
		all = append(all, Found{"echo", 0, Filtered})
	}
	return all
}

// round fills in the states of these.
func (s Scan) round(ctx context.Context, found []Found) error {
	open := map[int]*Found{}
	defer func() {
		for fd := range open {
			unix.Close(fd)
		}
	}()
	for i := range found {
		fd, err := s.send(&found[i])
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) {
			found[i].State = Unreachable
			continue
		}
		if err != nil {
			return fmt.Errorf("probe %s: %w", found[i], err)
		}
		open[fd] = &found[i]
	}
	for until := time.Now().Add(s.Wait); len(open) > 0; {
		left := time.Until(until)
		if left <= 0 || ctx.Err() != nil {
			break
		}
		if err := collect(open, min(left, 50*time.Millisecond)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// collect takes those that are answered within the time out of open.
func collect(open map[int]*Found, within time.Duration) error {
	fds := make([]unix.PollFd, 0, len(open))
	for fd, f := range open {
		want := int16(unix.POLLIN)
		if f.Proto == "tcp" {
			want = unix.POLLOUT
		}
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: want})
	}
	if _, err := unix.Poll(fds, int(within.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	for _, p := range fds {
		if p.Revents == 0 {
			continue
		}
		fd := int(p.Fd)
		if state := judge(fd, open[fd].Proto); state != Filtered {
			open[fd].State = state
			unix.Close(fd)
			delete(open, fd)
		}
	}
	return nil
}

// judge tells what woke the socket; Filtered: nothing that counts.
func judge(fd int, proto string) State {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return Unreachable
	case unix.Errno(code) == unix.ECONNREFUSED:
		return Closed
	case code != 0:
		return Unreachable
	case proto == "tcp":
		return Open
	}
	if _, _, err := unix.Recvfrom(fd, make([]byte, 1500), unix.MSG_DONTWAIT); err != nil {
		return Filtered
	}
	return Open
}

// send opens the socket and sends the first packet.
func (s Scan) send(f *Found) (fd int, err error) {
	kind, proto := unix.SOCK_DGRAM, 0
	switch f.Proto {
	case "tcp":
		kind = unix.SOCK_STREAM
	case "echo":
		kind, proto = unix.SOCK_RAW, unix.IPPROTO_ICMPV6
	}
	family := unix.AF_INET6
	if s.Target.Is4() {
		family = unix.AF_INET
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return 0, err
	}
	if err = s.connect(fd, f); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func (s Scan) connect(fd int, f *Found) error {
	if err := s.prepare(fd, f.Proto); err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(s.Target, f.Port)); err != nil {
		return err
	}
	switch f.Proto {
	case "udp":
		return written(unix.Write(fd, s.payload()))
	case "echo":
		return written(unix.Write(fd, Echo(uint16(fd), 1).data))
	}
	return nil
}

func (s Scan) payload() []byte {
	if s.Payload == nil {
		return []byte("anybody there?")
	}
	return s.Payload
}

// prepare binds the source port where one is wanted. A TCP probe ends with a
// reset: nothing of it is in the way of the next scan from the same port.
func (s Scan) prepare(fd int, proto string) error {
	switch proto {
	case "tcp":
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
	case "echo":
		return onlyEchoReplies(fd)
	}
	if s.From == 0 {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	from := netip.IPv6Unspecified()
	if s.Target.Is4() {
		from = netip.IPv4Unspecified()
	}
	return unix.Bind(fd, sockaddr(from, s.From))
}

func onlyEchoReplies(fd int) error {
	var block unix.ICMPv6Filter
	for i := range block.Data {
		block.Data[i] = ^uint32(0)
	}
	block.Data[129/32] &^= 1 << (129 % 32)
	return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &block)
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}

func written(_ int, err error) error { return err }
