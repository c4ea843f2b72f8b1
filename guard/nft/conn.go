package nft

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	bufferSize = 8 << 20
	// A transaction of a batch is kept below the default send buffer of 212992
	// bytes, which is all that one gets in a user namespace.
	batchSize = 128 << 10
	// The kernel answers within the system call; waiting longer means that an
	// answer was lost.
	answerWithin = 5 * time.Second
)

// conn is one netlink socket that is kept open: the kernel knows the owner of a
// table by it.
type conn struct {
	nl *netlink.Conn
}

func dial(netns int) (*conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := errors.Join(nl.SetReadBuffer(bufferSize), nl.SetWriteBuffer(bufferSize)); err != nil {
		nl.Close()
		return nil, fmt.Errorf("set netlink buffers: %w", err)
	}
	return &conn{nl: nl}, nil
}

func (c *conn) close() error { return c.nl.Close() }

// header is what begins every message of netfilter: family inet and version 0.
func header(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

func nftType(typ uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | typ)
}

// dump asks for a list, or for one thing if all is false.
func (c *conn) dump(typ uint16, all bool, a attrs) ([]netlink.Message, error) {
	flags := netlink.Request
	if all {
		flags |= netlink.Dump
	}
	if err := c.nl.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	return c.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: nftType(typ), Flags: flags}, Data: append(header(unix.NFPROTO_INET), a...),
	})
}

// several asks for several things at once, each answered by a message of its
// own; the acknowledgement ends them.
func (c *conn) several(typ uint16, a attrs) ([]netlink.Message, error) {
	if err := c.nl.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	if _, err := c.nl.Send(netlink.Message{
		Header: netlink.Header{Type: nftType(typ), Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(header(unix.NFPROTO_INET), a...),
	}); err != nil {
		return nil, err
	}
	var out []netlink.Message
	for {
		got, err := c.nl.Receive()
		if err != nil {
			return nil, err
		}
		for _, m := range got {
			if m.Header.Type == netlink.Error {
				return out, nil
			}
			out = append(out, m)
		}
	}
}

// commit sends a batch, as one transaction where it fits and otherwise cut
// where it may be, and returns how many transactions it took.
func (c *conn) commit(b *batch) (int, error) {
	n := 0
	for rest := b.msgs; len(rest) > 0; n++ {
		i, size := 0, 0
		for i < len(rest) && (!rest[i].cut || size+len(rest[i].data) <= batchSize) {
			size += len(rest[i].data)
			i++
		}
		if err := c.transact(rest[:i]); err != nil {
			return n, err
		}
		rest = rest[i:]
	}
	return n, nil
}

// transact sends one transaction and waits for its end: the acknowledgement of
// the last message, or an error. The kernel answers in the order of the messages.
func (c *conn) transact(msgs []message) error {
	marker := func(typ netlink.HeaderType) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: typ, Flags: netlink.Request}, Data: []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}}
	}
	out := []netlink.Message{marker(unix.NFNL_MSG_BATCH_BEGIN)}
	for i, m := range msgs {
		flags := netlink.Request | m.flags
		if i == len(msgs)-1 {
			flags |= netlink.Acknowledge
		}
		out = append(out, netlink.Message{Header: netlink.Header{Type: nftType(m.typ), Flags: flags}, Data: append(header(unix.NFPROTO_INET), m.data...)})
	}
	out = append(out, marker(unix.NFNL_MSG_BATCH_END))
	if err := c.nl.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		return err
	}
	sent, err := c.nl.SendMessages(out)
	if err != nil {
		return fmt.Errorf("send transaction: %w", explain(err))
	}
	return c.await(msgs, sent)
}

func (c *conn) await(msgs []message, sent []netlink.Message) error {
	last := sent[len(sent)-2].Header.Sequence
	for {
		got, err := c.nl.Receive()
		var op *netlink.OpError
		if errors.As(err, &op) {
			for i, m := range msgs {
				if op.Sequence != 0 && sent[i+1].Header.Sequence == op.Sequence {
					return fmt.Errorf("%s: %w", m.label, explain(err))
				}
			}
		}
		if err != nil {
			return fmt.Errorf("change table: %w", explain(err))
		}
		for _, m := range got {
			if m.Header.Type == netlink.Error && m.Header.Sequence == last {
				return nil
			}
		}
	}
}

// Errors that callers may test for with errors.Is; each wraps the kernel's own.
var (
	ErrFull      = errors.New("the set is full")
	ErrDenied    = errors.New("not permitted: CAP_NET_ADMIN is missing, or the table belongs to another process")
	ErrOverrun   = errors.New("the netlink buffer overran")
	ErrUnable    = errors.New("this kernel cannot do it")
	ErrNoAnswer  = errors.New("the kernel's answer was lost")
	ErrNoDevice  = errors.New("no such device")
	explanations = map[error]error{
		unix.ENFILE: ErrFull, unix.EPERM: ErrDenied, unix.ENOBUFS: ErrOverrun, unix.EOPNOTSUPP: ErrUnable,
		os.ErrDeadlineExceeded: ErrNoAnswer,
	}
)

func explain(err error) error {
	for cause, say := range explanations {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", say, err)
		}
	}
	return err
}
