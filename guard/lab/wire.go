package lab

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Send puts packets on the cable as they are, towards the other end: from a
// node's link to the router, which forwards them, or, from the router's end,
// straight to the node. The node's own rules do not see them go.
func (l *Link) Send(packets ...[]byte) error {
	return l.Node.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		defer unix.Close(fd)
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, l.towards(p)); err != nil {
				return fmt.Errorf("send packet: %w", err)
			}
		}
		return nil
	})
}

// towards is the other end, or the group of a multicast packet (RFC 2464
// section 7).
func (l *Link) towards(packet []byte) *unix.SockaddrLinklayer {
	to := &unix.SockaddrLinklayer{Protocol: network16(unix.ETH_P_IPV6), Ifindex: l.Index, Halen: 6}
	copy(to.Addr[:], l.Peer.MAC)
	if packet[0]>>4 == 4 {
		to.Protocol = network16(unix.ETH_P_IP)
	} else if len(packet) >= 40 && packet[24] == 0xff {
		copy(to.Addr[:], append([]byte{0x33, 0x33}, packet[36:40]...))
	}
	return to
}

// network16 is a number whose bytes in memory are in network order.
func network16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
