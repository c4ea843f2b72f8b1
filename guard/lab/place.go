package lab

import (
	"fmt"
	"net/netip"
)

// place is where a node lives: its networks and its addresses in them. The
// router is number 1 in each.
type place struct {
	net6, net4   netip.Prefix
	addr6, addr4 netip.Addr
}

// at makes a place in 2001:db8:GROUP::/48; each node has a /48 of its own there.
func at(group, iid, net4 string, last byte) place {
	p := place{
		net6:  netip.MustParsePrefix("2001:db8:" + group + "::/64"),
		addr6: netip.MustParseAddr("2001:db8:" + group + "::" + iid),
		net4:  netip.MustParsePrefix(net4 + ".0/24"),
	}
	b := p.net4.Addr().As4()
	b[3] = last
	p.addr4 = netip.AddrFrom4(b)
	return p
}

func (p place) router6() netip.Addr { return p.net6.Addr().Next() }
func (p place) router4() netip.Addr { return p.net4.Addr().Next() }

// hostPlace leaves addr6 to the host's own autoconfiguration.
func hostPlace() place {
	p := at("1", "0", "10.1.1", 10)
	p.addr6 = netip.Addr{}
	return p
}

func dnsPlace() place       { return at("53", "53", "10.1.53", 53) }
func harvesterPlace() place { return at("2016", "123", "198.18.201", 123) }
func scannerPlace() place   { return at("5ca", "5ca", "198.18.202", 66) }
func visitorPlace() place   { return at("717", "717", "198.18.203", 17) }

// serverPlace is where the pool server with this number (from 1) lives: the
// first three in the documentation networks, the others in the network for
// benchmarks, since there are no more of those.
func serverPlace(i int) place {
	net4 := fmt.Sprintf("198.18.%d", i)
	if docs := []string{"192.0.2", "198.51.100", "203.0.113"}; i <= len(docs) {
		net4 = docs[i-1]
	}
	return at(fmt.Sprintf("1%02d", i), "123", net4, 123)
}

// extraPlace is where the nodes live that are added on demand (from 1).
func extraPlace(i int) place {
	return at(fmt.Sprintf("e%02d", i), "1:1", fmt.Sprintf("198.19.%d", i), 10)
}
