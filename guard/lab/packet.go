package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Packet is an IPv6 packet as it was seen on a link.
type Packet struct {
	At       time.Time // the kernel's stamp, CLOCK_REALTIME
	Out      bool      // the node that captures sent it
	Src, Dst netip.Addr
	HopLimit uint8
	Headers  []uint8 // extension headers, in order
	Proto    uint8   // what follows them
	Payload  []byte  // of Proto; of a later fragment a piece of it
	Later    bool    // a fragment, and not the first
	Data     []byte  // all of it, from the IPv6 header
}

// ParsePacket takes an IPv6 packet apart; ok is false where it is cut off
// before its payload or is none.
func ParsePacket(b []byte) (p Packet, ok bool) {
	if len(b) < 40 || b[0]>>4 != 6 {
		return p, false
	}
	p = Packet{
		Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
		HopLimit: b[7], Proto: b[6], Data: b, Payload: b[40:],
	}
	for isExtension(p.Proto) && !p.Later {
		if len(p.Payload) < 8 {
			return p, false
		}
		size := (int(p.Payload[1]) + 1) * 8
		if p.Proto == unix.IPPROTO_FRAGMENT {
			size = 8
			p.Later = binary.BigEndian.Uint16(p.Payload[2:])&^7 != 0
		}
		if len(p.Payload) < size {
			return p, false
		}
		p.Headers = append(p.Headers, p.Proto)
		p.Proto, p.Payload = p.Payload[0], p.Payload[size:]
	}
	return p, true
}

func isExtension(proto uint8) bool {
	switch proto {
	case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_FRAGMENT, unix.IPPROTO_DSTOPTS:
		return true
	}
	return false
}

// ICMP6 reports whether it is an ICMPv6 message of one of these types; of any,
// where none is named.
func (p Packet) ICMP6(types ...uint8) bool {
	if p.Proto != unix.IPPROTO_ICMPV6 || p.Later || len(p.Payload) == 0 {
		return false
	}
	return len(types) == 0 || slices.Contains(types, p.Payload[0])
}

// Housekeeping is what a quiet link says by itself: neighbour discovery (RFC
// 4861) and multicast listener reports (RFC 2710, RFC 3810).
func (p Packet) Housekeeping() bool {
	return p.ICMP6(130, 131, 132, 133, 134, 135, 136, 137, 143)
}

// Ports are those of a TCP segment or UDP datagram, otherwise 0.
func (p Packet) Ports() (from, to uint16) {
	if p.Proto != unix.IPPROTO_TCP && p.Proto != unix.IPPROTO_UDP || p.Later || len(p.Payload) < 4 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(p.Payload), binary.BigEndian.Uint16(p.Payload[2:])
}

func (p Packet) String() string {
	what := fmt.Sprintf("protocol %d", p.Proto)
	from, to := p.Ports()
	switch {
	case p.Later:
		what = "later fragment of " + what
	case p.ICMP6():
		what = fmt.Sprintf("ICMPv6 type %d", p.Payload[0])
	case p.Proto == unix.IPPROTO_UDP:
		what = fmt.Sprintf("UDP %d to %d", from, to)
	case p.Proto == unix.IPPROTO_TCP && len(p.Payload) > 13:
		what = fmt.Sprintf("TCP %d to %d flags %#x", from, to, p.Payload[13])
	}
	return fmt.Sprintf("%s > %s %s, %d bytes", p.Src, p.Dst, what, len(p.Data))
}
