package lab

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Part is what follows the IPv6 header: extension headers, then one payload.
type Part struct {
	proto     uint8
	data      []byte
	extension bool // its first byte is the number of the next part
	sum       int  // where the checksum stands; 0: there is none
}

// Option is one of a hop-by-hop or destination header. The two highest bits of
// its type tell what a host does that does not know it (RFC 8200 section 4.2):
// 0x00 skip, 0x40 discard, 0x80 discard and complain, 0xc0 complain unless it
// was multicast.
type Option struct {
	Type uint8
	Data []byte
}

// Forge makes an IPv6 packet of hop limit 64: lengths, numbers of next headers
// and checksums are filled in. Without a payload the last header says that
// nothing follows.
func Forge(src, dst netip.Addr, parts ...Part) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, unix.IPPROTO_NONE, 64}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	next := 6 // where the number of the next part goes
	for _, p := range parts {
		b[next] = p.proto
		at := len(b)
		b = append(b, p.data...)
		if p.sum > 0 {
			binary.BigEndian.PutUint16(b[at+p.sum:], checksum(src, dst, p.proto, b[at:]))
		}
		if p.extension {
			next = at
			b[next] = unix.IPPROTO_NONE
		}
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

// WithHopLimit is the packet with another hop limit.
func WithHopLimit(packet []byte, limit uint8) []byte {
	b := slices.Clone(packet)
	b[7] = limit
	return b
}

// Cut is a fragment of the packet: the bytes from (a multiple of 8) to to,
// counted after the IPv6 header; a to of -1 is the end. Fragments of one packet
// share the id. more tells the receiver that others follow.
func Cut(packet []byte, id uint32, from, to int, more bool) []byte {
	body := packet[40:]
	if to < 0 {
		to = len(body)
	}
	src, dst := netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	return WithHopLimit(Forge(src, dst, Fragment(id, from, more), Payload(packet[6], body[from:to])), packet[7])
}

// Fragment is the fragment header; what follows it is taken as it is.
func Fragment(id uint32, offset int, more bool) Part {
	where := uint16(offset) &^ 7
	if more {
		where |= 1
	}
	b := binary.BigEndian.AppendUint16([]byte{0, 0}, where)
	return Part{proto: unix.IPPROTO_FRAGMENT, data: binary.BigEndian.AppendUint32(b, id), extension: true}
}

// HopByHop is a header with these options, padded.
func HopByHop(options ...Option) Part { return optional(unix.IPPROTO_HOPOPTS, options) }

// Destination is a header with these options, padded.
func Destination(options ...Option) Part { return optional(unix.IPPROTO_DSTOPTS, options) }

func optional(proto uint8, options []Option) Part {
	b := []byte{0, 0}
	for _, o := range options {
		b = append(append(b, o.Type, uint8(len(o.Data))), o.Data...)
	}
	switch pad := -len(b) & 7; pad {
	case 0:
	case 1:
		b = append(b, 0)
	default:
		b = append(append(b, 1, uint8(pad-2)), make([]byte, pad-2)...)
	}
	b[1] = uint8(len(b)/8 - 1)
	return Part{proto: proto, data: b, extension: true}
}

// Routing is a routing header of this type by way of these addresses.
func Routing(kind, left uint8, via ...netip.Addr) Part {
	b := []byte{0, uint8(2 * len(via)), kind, left, 0, 0, 0, 0}
	for _, a := range via {
		b = append(b, a.AsSlice()...)
	}
	return Part{proto: unix.IPPROTO_ROUTING, data: b, extension: true}
}

// Payload is anything, as it is.
func Payload(proto uint8, data []byte) Part { return Part{proto: proto, data: data} }

// Flags of TCP.
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	ACK = 0x10
)

// TCP is a segment without data.
func TCP(from, to uint16, flags uint8) Part {
	b := ports(from, to)
	b = append(b, 0, 0, 0x10, 1, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	return Part{proto: unix.IPPROTO_TCP, data: b, sum: 16}
}

// UDP is a datagram.
func UDP(from, to uint16, data []byte) Part {
	b := binary.BigEndian.AppendUint16(ports(from, to), uint16(8+len(data)))
	return Part{proto: unix.IPPROTO_UDP, data: append(append(b, 0, 0), data...), sum: 6}
}

func ports(from, to uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
}

// ICMP6 is a message of any type; body is what follows the checksum.
func ICMP6(kind, code uint8, body []byte) Part {
	return Part{proto: unix.IPPROTO_ICMPV6, data: append([]byte{kind, code, 0, 0}, body...), sum: 2}
}

// Echo is an echo request.
func Echo(id, sequence uint16) Part {
	return ICMP6(128, 0, append(ports(id, sequence), "ntpveil lab"...))
}

// TooBig claims that the packet was too big for a link.
func TooBig(mtu uint32, packet []byte) Part {
	return ICMP6(2, 0, append(binary.BigEndian.AppendUint32(nil, mtu), packet...))
}

// checksum is that of RFC 8200 section 8.1; the field itself is zero.
func checksum(src, dst netip.Addr, proto uint8, data []byte) uint16 {
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(data)))
	pseudo = append(append(pseudo, 0, 0, 0, proto), data...)
	if len(pseudo)%2 == 1 {
		pseudo = append(pseudo, 0)
	}
	var sum uint32
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum = ^sum & 0xffff; sum == 0 {
		return 0xffff // UDP's zero would mean that there is none
	}
	return uint16(sum)
}
