package ipaddr_test

import (
	"net/netip"
	"testing"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
	"ntpveil/guard/guardtest"
	"ntpveil/guard/ipaddr"
)

var (
	_ daemon.Addresses = (*ipaddr.Stack)(nil)
	_ daemon.Facts     = (*ipaddr.Stack)(nil)
)

func TestStackConforms(t *testing.T) {
	guardtest.ConformAddresses(t, func(t *testing.T) guardtest.AddressesBench {
		w := newWire(t)
		s := w.host.open()
		return guardtest.AddressesBench{
			Addresses: s,
			Now:       now,
			Link:      w.link,
			Prefix:    prefix,
			Gateway:   gateway,
			Silent:    netip.MustParseAddr("fe80::dead"),
			Put: func(a guard.Addr) {
				w.host.ip("addr add " + a.Addr.String() + "/128 dev eth0 nodad noprefixroute preferred_lft 0 valid_lft 3600")
			},
			Vanish: func(a netip.Addr) { w.host.ip("addr del " + a.String() + "/128 dev eth0") },
			Take:   func(a netip.Addr) { w.router.ip("addr add " + a.String() + "/64 dev lan0 nodad") },
			Await:  s.await,
		}
	})
}
