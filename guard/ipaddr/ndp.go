package ipaddr

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv6"
)

// Neighbour discovery, RFC 4861 sections 4.3 and 4.4.
const (
	hopLimit       = 255 // proves that a packet was sent on the link (section 7.1)
	ndHeader       = 24  // type, code, checksum, four more bytes and the target
	sourceLLOption = 1
)

// neighbours asks gateways who they are, so that they learn who we are.
type neighbours struct{ conn *ipv6.PacketConn }

// advertisement is a neighbour advertisement as far as it concerns us.
type advertisement struct {
	target netip.Addr // whose it is
	to     netip.Addr // whom it answers
	link   int
}

func openNeighbours() (*neighbours, error) {
	raw, err := net.ListenPacket("ip6:58", "::") // 58: ICMPv6
	if err != nil {
		return nil, err
	}
	n := &neighbours{conn: ipv6.NewPacketConn(raw)}
	if err := n.prepare(); err != nil {
		raw.Close()
		return nil, err
	}
	return n, nil
}

// prepare lets advertisements in and nothing else: the kernel drops the rest.
func (n *neighbours) prepare() error {
	var f ipv6.ICMPFilter
	f.SetAll(true)
	f.Accept(ipv6.ICMPTypeNeighborAdvertisement)
	if err := n.conn.SetICMPFilter(&f); err != nil {
		return fmt.Errorf("filter ICMPv6: %w", err)
	}
	if err := n.conn.SetMulticastLoopback(false); err != nil {
		return fmt.Errorf("turn multicast loop off: %w", err)
	}
	if err := n.conn.SetHopLimit(hopLimit); err != nil {
		return fmt.Errorf("set hop limit: %w", err)
	}
	if err := n.conn.SetMulticastHopLimit(hopLimit); err != nil {
		return fmt.Errorf("set hop limit of multicast: %w", err)
	}
	return n.conn.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst|ipv6.FlagInterface, true)
}

// solicit asks for a target from one of our addresses, by unicast or by
// multicast.
func (n *neighbours) solicit(from, target netip.Addr, link int, hw net.HardwareAddr, multicast bool) error {
	to := target
	if multicast {
		to = solicitedNode(target)
	}
	control := &ipv6.ControlMessage{Src: from.AsSlice(), IfIndex: link}
	_, err := n.conn.WriteTo(solicitation(target, hw), control, &net.IPAddr{IP: to.AsSlice()})
	return err
}

// solicitation is the message; the kernel fills the checksum in.
func solicitation(target netip.Addr, hw net.HardwareAddr) []byte {
	m := make([]byte, ndHeader, ndHeader+32)
	m[0] = byte(ipv6.ICMPTypeNeighborSolicitation)
	copy(m[8:], target.AsSlice())
	if len(hw) == 0 { // the link has no addresses
		return m
	}
	units := (2 + len(hw) + 7) / 8
	option := make([]byte, 8*units)
	option[0], option[1] = sourceLLOption, byte(units)
	copy(option[2:], hw)
	return append(m, option...)
}

// solicitedNode is the multicast address that a node listens on for
// solicitations of one of its addresses (RFC 4291, section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	m := [16]byte{0: 0xff, 1: 0x02, 11: 0x01, 12: 0xff}
	b := a.As16()
	copy(m[13:], b[13:])
	return netip.AddrFrom16(m)
}

// next waits for an advertisement. buf is room for it.
func (n *neighbours) next(buf []byte) (advertisement, error) {
	for {
		size, control, _, err := n.conn.ReadFrom(buf)
		if err != nil {
			return advertisement{}, err
		}
		if control == nil || control.HopLimit != hopLimit {
			continue
		}
		target, ok := advertised(buf[:size])
		to, _ := netip.AddrFromSlice(control.Dst)
		if ok {
			return advertisement{target, to, control.IfIndex}, nil
		}
	}
}

// advertised is the target of an advertisement. The checksum was checked by the
// kernel; options do not matter here.
func advertised(m []byte) (target netip.Addr, ok bool) {
	if len(m) < ndHeader || m[0] != byte(ipv6.ICMPTypeNeighborAdvertisement) || m[1] != 0 {
		return netip.Addr{}, false
	}
	target = netip.AddrFrom16([16]byte(m[8:24]))
	return target, !target.IsMulticast()
}
