package guard

import "net/netip"

// Ranges that no server on the internet has (IANA special-purpose registries).
// Documentation prefixes count as global: laboratories live in them.
var neverServers = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
	{netip.MustParsePrefix("100::/64"), "discard-only"},
}

// usable says why an answer cannot be a server; empty where it can.
func usable(a netip.Addr, allowPrivate bool, own []netip.Addr) string {
	for _, o := range own {
		if o == a {
			return "our own address"
		}
	}
	if nat64.Contains(a) {
		b := a.As16()
		return usable(netip.AddrFrom4([4]byte(b[12:])), allowPrivate, own)
	}
	switch {
	case !a.IsValid() || a.IsUnspecified():
		return "unspecified address"
	case a.IsLoopback():
		return "loopback address"
	case a.IsMulticast():
		return "multicast address"
	case a.IsLinkLocalUnicast():
		return "link-local address"
	case (a.IsPrivate() || sharedSpace.Contains(a)) && !allowPrivate:
		return "private address (time.allow_private permits it)"
	}
	for _, n := range neverServers {
		if n.prefix.Contains(a) {
			return n.why + " address"
		}
	}
	return ""
}
