package ipaddr

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// maxPeers is where the search ends: whoever has more is a server, and its
	// sessions are let through by connection tracking anyway.
	maxPeers = 4096

	tcpEstablished = 1
	diagRequest    = 56 // struct inet_diag_req_v2
	diagReply      = 72 // struct inet_diag_msg
)

// peers are the far ends of established TCP sessions, sorted. Socket diagnosis
// takes 0.4 ms where the files of /proc take 11 (both walk a table of 262144
// buckets); the files are for a kernel without it.
func peers() []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := diagnose(seen, family); err != nil {
			addListed(seen, "/proc/thread-self/net/tcp")
			addListed(seen, "/proc/thread-self/net/tcp6")
		}
	}
	out := make([]netip.Addr, 0, len(seen))
	for a := range seen {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// diagnose asks the kernel for the sessions of a family.
func diagnose(seen map[netip.Addr]bool, family byte) error {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(sessionsOf(family))
	return request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
		if a, ok := farEnd(m); ok {
			seen[a] = true
		}
		return len(seen) < maxPeers
	})
}

// sessionsOf is a request for the established TCP sessions of a family.
type sessionsOf byte

func (sessionsOf) Len() int { return diagRequest }

func (family sessionsOf) Serialize() []byte {
	b := make([]byte, diagRequest)
	b[0], b[1] = byte(family), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<tcpEstablished)
	return b
}

// farEnd is the destination of a session.
func farEnd(m []byte) (netip.Addr, bool) {
	if len(m) < diagReply {
		return netip.Addr{}, false
	}
	size := 16
	if m[0] == unix.AF_INET {
		size = 4
	}
	a, _ := netip.AddrFromSlice(m[24 : 24+size])
	return outside(a)
}

// outside leaves out who is no peer on a network.
func outside(a netip.Addr) (netip.Addr, bool) {
	a = a.Unmap()
	return a, !a.IsUnspecified() && !a.IsLoopback()
}
