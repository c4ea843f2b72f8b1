package ipaddr

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// way is how the kernel would send a packet that nobody bound; of no link: it
// would not.
type way struct {
	link    int
	gateway netip.Addr // invalid: none
	source  netip.Addr // invalid: none that is of use outside
}

// Somewhere global that is on no link: the way there is the way to the internet.
// Nothing is ever sent to them.
var (
	elsewhere4 = netip.MustParseAddr("128.0.0.1")
	elsewhere6 = netip.MustParseAddr("2000::1")
)

// way asks the kernel. A look at the default routes would not do: a tunnel for
// everything leaves them as they are and adds more specific routes, or a table
// and a rule, and of several routers the kernel takes the one that is preferred
// (RFC 4191) and answers. over is an interface to go by, or empty.
func (s *Stack) way(to netip.Addr, over string) way {
	found, err := s.handle.RouteGetWithOptions(net.IP(to.AsSlice()), &netlink.RouteGetOptions{Oif: over})
	if err != nil || len(found) == 0 {
		return way{}
	}
	r := found[0]
	w := way{link: r.LinkIndex, gateway: gateway(r.Gw, r.Via)}
	a, _ := netip.AddrFromSlice(r.Src)
	if a = a.Unmap(); !a.IsLinkLocalUnicast() && !a.IsLoopback() {
		w.source = a
	}
	return w
}
