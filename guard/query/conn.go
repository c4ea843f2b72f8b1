package query

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"ntpveil/guard"
)

// patience is how many datagrams with our origin that are still no answers, and
// ICMP errors, one exchange bears.
const patience = 1000

// conn is one exchange's socket. It sends a request of its own in place of the
// library's, reads on past whatever does not answer it, and keeps the times.
type conn struct {
	udp     *net.UDPConn
	nonce   [8]byte // the transmit timestamp that is sent
	library [8]byte // the one that the library thinks was sent
	clock   func() reading
	sent    reading
	read    reading
	left    time.Time // both by the kernel's stamps where they are plausible
	arrived time.Time
	answer  [headerLen]byte
	strays  int
	icmp    error

	nts     Protection // nil: a plain exchange
	cookies []guard.Secret
	nak     bool
}

// reading is one instant on both clocks. Wall is bare of Go's own monotonic
// reading, since the kernel's stamps have none. It was taken within spread after
// mono: on a busy machine a thread may have to wait between the two.
type reading struct {
	mono, spread time.Duration
	wall         time.Time
}

// readings is how often the clocks are read to have both at once.
const readings = 10

func read(mono func() time.Duration) (best reading) {
	for i := range readings {
		before := mono()
		wall := time.Now().Round(0)
		if r := (reading{before, mono() - before, wall}); i == 0 || r.spread < best.spread {
			best = r
		}
		if best.spread < noStep {
			break
		}
	}
	return best
}

func dial(ctx context.Context, from, to netip.AddrPort, device string, mono func() time.Duration) (*conn, error) {
	c := &conn{clock: func() reading { return read(mono) }}
	_, _ = rand.Read(c.nonce[:]) // never fails (crypto/rand)
	var err error
	c.udp, err = open(ctx, from, to, device, c.nonce)
	return c, err
}

// Write sends our request and remembers the library's.
func (c *conn) Write(b []byte) (int, error) {
	if len(b) < headerLen {
		return 0, fmt.Errorf("send query: the library wrote %d bytes", len(b))
	}
	c.library = [8]byte(b[atTransmit:])
	request := c.request()
	if _, err := c.udp.Write(request); err != nil {
		return 0, fmt.Errorf("send query: %w", cause(err))
	}
	return len(b), nil
}

// request is what goes out. A protected one has the precision that chrony writes:
// timesyncd, whose bytes the plain one has, knows no NTS.
func (c *conn) request() []byte {
	header := [headerLen]byte{0: query}
	copy(header[atTransmit:], c.nonce[:])
	if c.nts == nil {
		return header[:]
	}
	header[atPrecision] = 0x20
	return c.nts.Seal(header[:])
}

// Read returns the first datagram that answers the request, for the library:
// the header alone, since no extension field and no MAC was asked for.
func (c *conn) Read(b []byte) (int, error) {
	buf, oob := make([]byte, longestNTS+1), make([]byte, 256)
	defer func() { c.leave(departure(c.udp)) }()
	for c.strays <= patience {
		n, oobn, _, _, err := c.udp.ReadMsgUDPAddrPort(buf, oob)
		if err == nil {
			err = c.take(buf[:n], arrival(oob[:oobn]))
		}
		var errno syscall.Errno
		switch {
		case err == nil:
			return c.hand(b), nil
		case errors.Is(err, errMismatch):
			c.strays++
		case errors.As(err, &errno) && !errno.Timeout():
			c.icmp = errno // of an ICMP error, which anybody on the way may have forged
			c.strays++
		default:
			return 0, err
		}
	}
	return 0, fmt.Errorf("read answer: more than %d datagrams that are none", patience)
}

// take judges a datagram. The kernel's stamp is believed where it lies between
// the sending and the reading.
func (c *conn) take(b []byte, kernel time.Time) error {
	if err := c.authentic(b); err != nil {
		return err
	}
	if err := check(b, c.nonce, c.longest()); err != nil {
		return err
	}
	c.read = c.clock()
	c.arrived = c.read.wall
	if !kernel.Before(c.sent.wall) && !kernel.After(c.read.wall) {
		c.arrived = kernel
	}
	copy(c.answer[:], b)
	return nil
}

// longest is the length that no answer exceeds.
func (c *conn) longest() int {
	if c.nts != nil {
		return longestNTS
	}
	return longest
}

// authentic lets nothing pass that is not the server's own answer, where it has to
// be: not even a kiss-o'-death.
func (c *conn) authentic(b []byte) error {
	if c.nts == nil {
		return nil
	}
	if !answers(b, c.nonce, c.longest()) {
		return errMismatch
	}
	cookies, nak, ok := c.nts.Open(b)
	c.nak = c.nak || nak
	if !ok {
		return errMismatch
	}
	c.cookies = cookies
	return nil
}

// hand gives the answer to the library, with the origin that it waits for.
func (c *conn) hand(b []byte) int {
	n := copy(b, c.answer[:])
	copy(b[atOrigin:n], c.library[:])
	return n
}

// time is what the library is given as the system's time. It asks exactly twice,
// before it writes and after it has read.
func (c *conn) time() time.Time {
	if c.sent.wall.IsZero() {
		c.sent = c.clock()
		c.left = c.sent.wall
		return c.left
	}
	return c.arrived
}

// wire is the connection as the library gets it: the deadline is ours, and so is
// the closing.
type wire struct{ *conn }

func (wire) Close() error                     { return nil }
func (wire) SetDeadline(time.Time) error      { return nil }
func (wire) SetReadDeadline(time.Time) error  { return nil }
func (wire) SetWriteDeadline(time.Time) error { return nil }
func (w wire) LocalAddr() net.Addr            { return w.udp.LocalAddr() }
func (w wire) RemoteAddr() net.Addr           { return w.udp.RemoteAddr() }
