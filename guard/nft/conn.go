package nft

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// conn asks and changes by one socket that is kept open: the kernel knows the
// owner of a table by it.
type conn struct {
	*socket
	out []byte
}

func dial(netns int) (*conn, error) {
	s, err := openSocket(netns)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return &conn{socket: s}, nil
}

// header is what begins every message of netfilter: a family and version 0.
func header(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

func nftType(typ uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | typ }

// list asks for a list, and hands over the attributes of each thing on it.
func (c *conn) list(typ uint16, a attrs, each func([]byte)) error {
	return c.ask(typ, unix.NLM_F_DUMP, a, each)
}

// get asks for one thing, or several that are named.
func (c *conn) get(typ uint16, a attrs, each func([]byte)) error {
	return c.ask(typ, unix.NLM_F_ACK, a, each)
}

func (c *conn) ask(typ, flags uint16, a attrs, each func([]byte)) error {
	var seq uint32
	c.out, seq = c.append(c.out[:0], nftType(typ), flags, header(unix.NFPROTO_INET), a)
	if err := c.send(c.out); err != nil {
		return err
	}
	var result error
	for over := false; !over; {
		err := c.receive(func(h heard) {
			switch {
			case h.seq != seq:
			case h.typ == unix.NLMSG_DONE || h.typ == unix.NLMSG_ERROR:
				over, result = true, errors.Join(result, h.result())
			case h.flags&unix.NLM_F_DUMP_INTR != 0:
				result = unix.EINTR
			default:
				each(body(h.data))
			}
		})
		if err != nil {
			return err
		}
	}
	return result
}

// commit sends a batch and returns how many transactions it took.
func (c *conn) commit(b *batch) (int, error) {
	n := 0
	for part := range b.transactions() {
		if err := c.transact(part); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// marker begins and ends a transaction.
var marker = []byte{0, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}

// transact sends one transaction and waits for its end.
func (c *conn) transact(msgs []message) error {
	first, last := c.begin(msgs)
	c.out, _ = c.append(c.out, unix.NFNL_MSG_BATCH_END, 0, marker)
	return c.finish(msgs, first, last)
}

// check has the kernel try a batch, as one transaction, and undo it: it does so where
// the end is missing.
func (c *conn) check(b *batch) error {
	first, last := c.begin(b.msgs)
	return c.finish(b.msgs, first, last)
}

func (c *conn) begin(msgs []message) (first, last uint32) {
	c.out, first = c.append(c.out[:0], unix.NFNL_MSG_BATCH_BEGIN, 0, marker)
	for i, m := range msgs {
		flags := m.flags
		if i == len(msgs)-1 {
			flags |= unix.NLM_F_ACK
		}
		c.out, last = c.append(c.out, nftType(m.typ), flags, header(unix.NFPROTO_INET), m.data)
	}
	return first, last
}

func (c *conn) finish(msgs []message, first, last uint32) error {
	if err := c.send(c.out); err != nil {
		return fmt.Errorf("send transaction: %w", explain(err))
	}
	return c.await(msgs, first, last)
}

// await waits for the end of a transaction: the acknowledgement of its last
// message, or the error of any, of which the first counts. Errors of the whole
// come with the number of the message that begins it.
func (c *conn) await(msgs []message, first, last uint32) error {
	var result error
	for over := false; !over; {
		err := c.receive(func(h heard) {
			if h.typ != unix.NLMSG_ERROR || h.seq < first || h.seq > last {
				return
			}
			over = h.seq == last || h.result() != nil
			if err := h.result(); err != nil && result == nil {
				label := "change table"
				if i := int(h.seq - first - 1); i >= 0 && i < len(msgs) {
					label = msgs[i].label
				}
				result = fmt.Errorf("%s: %w", label, explain(err))
			}
		})
		if err != nil {
			return fmt.Errorf("change table: %w", explain(err))
		}
	}
	return result
}

// Errors that callers may test for with errors.Is; each wraps the kernel's own.
var (
	ErrFull     = errors.New("the set is full")
	ErrDenied   = errors.New("not permitted: CAP_NET_ADMIN is missing, or the table belongs to another process")
	ErrOverrun  = errors.New("the netlink buffer overran")
	ErrUnable   = errors.New("this kernel cannot do it")
	ErrNoAnswer = errors.New("the kernel's answer was lost")
	ErrNoDevice = errors.New("no such device")

	explanations = map[unix.Errno]error{
		unix.ENFILE: ErrFull, unix.EPERM: ErrDenied, unix.ENOBUFS: ErrOverrun, unix.EOPNOTSUPP: ErrUnable,
	}
)

func explain(err error) error {
	var code unix.Errno
	if errors.As(err, &code) && explanations[code] != nil {
		return fmt.Errorf("%w: %w", explanations[code], err)
	}
	return err
}
