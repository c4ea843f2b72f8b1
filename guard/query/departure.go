package query

import (
	"encoding/binary"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// stamps asks for the moment at which a datagram was handed to the device. Only
// the stamp comes back, not the datagram, with the number of the datagram.
const stamps = unix.SOF_TIMESTAMPING_TX_SOFTWARE | unix.SOF_TIMESTAMPING_SOFTWARE |
	unix.SOF_TIMESTAMPING_OPT_TSONLY | unix.SOF_TIMESTAMPING_OPT_ID

// errorLen is the length of struct sock_extended_err.
const errorLen = 16

// leave takes the kernel's word for when the query left, where it lies between
// our reading before it and the arrival of the answer.
func (c *conn) leave(kernel time.Time) {
	if !kernel.Before(c.sent.wall) && !kernel.After(c.arrived) {
		c.left = kernel
	}
}

// departure reads when the one query of a socket left. It does not wait: where
// there is an answer the query is gone, and its stamp is there or never comes.
// Zero: the device makes none.
func departure(c *net.UDPConn) (left time.Time) {
	raw, err := c.SyscallConn()
	if err != nil {
		return time.Time{}
	}
	_ = raw.Control(func(fd uintptr) {
		oob := make([]byte, 256)
		_, n, _, _, err := unix.Recvmsg(int(fd), nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == nil {
			left = firstLeft(oob[:n])
		}
	})
	return left
}

// firstLeft is the stamp of a socket's first datagram in a message of its error
// queue. What the kernel made of an ICMP message, which anybody may forge, has
// another origin, and does not come at all as long as nobody asks for it (IP_RECVERR).
func firstLeft(oob []byte) (left time.Time) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}
	}
	first := false
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPING_NEW:
			left = stampIn(m.Data)
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR,
			m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR:
			first = isFirst(m.Data)
		}
	}
	if !first {
		return time.Time{}
	}
	return left
}

// isFirst reports whether a struct sock_extended_err tells of a stamp, made when
// a datagram left, of the first one.
func isFirst(b []byte) bool {
	if len(b) < errorLen {
		return false
	}
	errno, what, number := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])
	return errno == uint32(unix.ENOMSG) && b[4] == unix.SO_EE_ORIGIN_TIMESTAMPING && what == unix.SCM_TSTAMP_SND && number == 0
}

// stampIn is the first 64-bit struct timespec of a control message.
func stampIn(b []byte) time.Time {
	if len(b) < 16 {
		return time.Time{}
	}
	return time.Unix(int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:])))
}
