package rules

import (
	"fmt"
	"strconv"
)

// Field is a part of a packet, or a fact about it, that a rule can look at.
type Field uint8

// Fields of the link and network layer need Family before them in the same
// rule, those of the transport layer need Transport: an inet table sees both families.
const (
	Family    Field = iota // the packet's own: IPv4 or IPv6
	Transport              // protocol number, behind any extension headers
	Inbound                // name of the device that it came in by
	SAddr4
	DAddr4
	SAddr6
	DAddr6
	NextHdr6 // the IPv6 header's own next header: no extension header stands between
	HopLimit6
	TTL4
	SPortUDP
	DPortUDP
	SPortTCP
	DPortTCP
	TypeICMP4
	TypeICMP6
	PortPublished // the transport port that a connection was begun to, before any translation
)

// Values of Family and Transport.
const (
	IPv4   = 2
	IPv6   = 10
	ICMP4  = 1
	IGMP   = 2
	TCP    = 6
	UDP    = 17
	ICMP6  = 58
	maxHop = 255
)

var fieldNames = [...]string{
	"meta nfproto", "meta l4proto", "iifname", "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr",
	"ip6 nexthdr", "ip6 hoplimit", "ip ttl", "udp sport", "udp dport", "tcp sport", "tcp dport", "icmp type", "icmpv6 type", "ct original proto-dst",
}

func (f Field) String() string {
	if int(f) < len(fieldNames) {
		return fieldNames[f]
	}
	return fmt.Sprintf("field(%d)", uint8(f))
}

// Bits is the width of the field; 0 for Inbound, which is text.
func (f Field) Bits() int {
	switch f {
	case SAddr4, DAddr4:
		return 32
	case SAddr6, DAddr6:
		return 128
	case SPortUDP, DPortUDP, SPortTCP, DPortTCP, PortPublished:
		return 16
	case Inbound:
		return 0
	}
	return 8
}

var (
	protocolNames = map[uint16]string{ICMP4: "icmp", IGMP: "igmp", TCP: "tcp", UDP: "udp", ICMP6: "icmpv6"} // nft knows these by itself: a host may lack /etc/protocols
	familyNames   = map[uint16]string{IPv4: "ipv4", IPv6: "ipv6"}
	icmp4Names    = map[uint16]string{3: "destination-unreachable", 11: "time-exceeded", 12: "parameter-problem"}
	icmp6Names    = map[uint16]string{
		1: "destination-unreachable", 2: "packet-too-big", 3: "time-exceeded", 4: "parameter-problem",
		128: "echo-request", 129: "echo-reply", 130: "mld-listener-query", 131: "mld-listener-report", 132: "mld-listener-done",
		133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert",
		141: "ind-neighbor-solicit", 142: "ind-neighbor-advert", 143: "mld2-listener-report",
	}
)

// name is a value as nft writes it.
func (f Field) name(v uint16) string {
	names := map[Field]map[uint16]string{
		Family: familyNames, Transport: protocolNames, NextHdr6: protocolNames,
		TypeICMP4: icmp4Names, TypeICMP6: icmp6Names,
	}[f]
	if n, ok := names[v]; ok {
		return n
	}
	return strconv.Itoa(int(v))
}
