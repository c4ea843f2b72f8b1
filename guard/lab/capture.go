package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Capture records all IPv6 packets of a link, in both directions.
type Capture struct {
	file *os.File
	raw  syscall.RawConn

	mu      sync.Mutex
	packets []Packet
	changed chan struct{} // closed and replaced by every packet

	ended  chan struct{}
	once   sync.Once
	result error
}

// Capture begins before it returns. It ends with Close or with the lab.
func (l *Link) Capture() (*Capture, error) {
	c := &Capture{changed: make(chan struct{}), ended: make(chan struct{})}
	if err := l.Node.Do(func() error { return c.open(l.Index) }); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	l.Node.lab.run(c.record, c.stop)
	return c, nil
}

func (c *Capture) open(index int) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	c.file = os.NewFile(uintptr(fd), "capture")
	// The larger one is refused to a user namespace.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<20)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network16(unix.ETH_P_ALL), Ifindex: index})
	}
	if err == nil {
		c.raw, err = c.file.SyscallConn()
	}
	if err != nil {
		c.file.Close()
	}
	return err
}

// record runs until stop, then takes what is still in the socket.
func (c *Capture) record() {
	defer close(c.ended)
	b, oob := make([]byte, 1<<16), make([]byte, 128)
	var failed error
	err := c.raw.Read(func(fd uintptr) bool { // false: wait for more
		failed = c.drain(int(fd), b, oob)
		return !errors.Is(failed, unix.EAGAIN)
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		c.result = fmt.Errorf("capture: it ended early: %w", failed)
	}
	_ = c.raw.Control(func(fd uintptr) {
		_ = c.drain(int(fd), b, oob)
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil && stats.Drops > 0 {
			c.result = fmt.Errorf("capture: the kernel lost %d packets", stats.Drops)
		}
	})
	c.file.Close()
}

// drain reads until there is nothing; it always ends with an error. A link that
// goes down is told as one and is none.
func (c *Capture) drain(fd int, b, oob []byte) error {
	for {
		n, on, _, from, err := unix.Recvmsg(fd, b, oob, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return err
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Protocol == network16(unix.ETH_P_IPV6) {
			c.add(b[:n], oob[:on], l.Pkttype == unix.PACKET_OUTGOING)
		}
	}
}

func (c *Capture) add(b, oob []byte, out bool) {
	p, _ := ParsePacket(slices.Clone(b)) // a broken one counts too
	p.Out, p.At = out, stamp(oob)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.packets = append(c.packets, p)
	close(c.changed)
	c.changed = make(chan struct{})
}

// stamp is the time in the control message that SO_TIMESTAMPNS brings.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 || len(messages[0].Data) < 16 {
		return time.Now()
	}
	d := messages[0].Data
	return time.Unix(int64(binary.NativeEndian.Uint64(d)), int64(binary.NativeEndian.Uint64(d[8:])))
}

// Packets lists what was seen so far.
func (c *Capture) Packets() []Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.packets)
}

// Await returns the first packet, from the beginning of the capture, that match
// accepts.
func (c *Capture) Await(ctx context.Context, match func(Packet) bool) (Packet, error) {
	for seen := 0; ; {
		c.mu.Lock()
		fresh, changed := slices.Clone(c.packets[seen:]), c.changed
		c.mu.Unlock()
		if i := slices.IndexFunc(fresh, match); i >= 0 {
			return fresh[i], nil
		}
		seen += len(fresh)
		select {
		case <-changed:
		case <-ctx.Done():
			return Packet{}, fmt.Errorf("await packet: %w", ctx.Err())
		}
	}
}

// Close ends the capture and takes what has arrived by now. An error means that
// packets were lost, so that nothing follows from what was not seen.
func (c *Capture) Close() error {
	c.stop()
	<-c.ended
	return c.result
}

func (c *Capture) stop() {
	c.once.Do(func() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) })
}
