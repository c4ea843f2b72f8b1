package ipaddr

import (
	"fmt"
	"net/netip"
	"slices"
)

// prefix finds the /64 to make addresses in: that of an address which the link
// has, by router advertisement or by configuration, and programs use. Where
// there are several, the one of the source that the kernel picks, then the
// lowest: the choice must not change back and forth, for addresses in another
// prefix are given up.
//
// A unique local prefix (RFC 4193) is above every global one, and is taken only
// where there is a default route: it reaches a server only through a translation
// of prefixes, but then so does the host's stable address.
func (f *facts) prefix(l link, none string, source netip.Addr) (netip.Prefix, string) {
	switch {
	case l.index == 0:
		return netip.Prefix{}, none
	case l.tunnel:
		return netip.Prefix{}, l.name + " is a tunnel or a point-to-point link"
	}
	var found []netip.Prefix
	bits := 0 // of what is there instead
	for _, e := range f.addrs6 {
		switch {
		case e.link != l.index || !e.preferredGlobal():
		case e.bits == 64:
			found = append(found, netip.PrefixFrom(e.addr, 64).Masked())
		default:
			bits = e.bits
		}
	}
	better := func(a, b netip.Prefix) int {
		if x := a.Contains(source); x != b.Contains(source) {
			return map[bool]int{true: -1, false: 1}[x]
		}
		return a.Addr().Compare(b.Addr())
	}
	if len(found) > 0 {
		p := slices.MinFunc(found, better)
		if p.Addr().IsPrivate() && f.over6.link != l.index {
			return netip.Prefix{}, fmt.Sprintf("%s has only the unique local prefix %s and no default route", l.name, p)
		}
		return p, ""
	}
	return netip.Prefix{}, instead(l.name, bits)
}

// instead says why there is no /64.
func instead(name string, bits int) string {
	switch bits {
	case 0:
		return "there is no preferred global IPv6 address on " + name
	case 128:
		return fmt.Sprintf("%s has single IPv6 addresses only (/128, as DHCPv6 gives them)", name)
	}
	return fmt.Sprintf("the IPv6 prefix on %s is a /%d, not a /64", name, bits)
}
