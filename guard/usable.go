package guard

import "net/netip"

// Ranges that no server on the internet has (IANA special-purpose registries).
// Documentation prefixes count as global: laboratories live in them.
var neverServers = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"}, // broadcast too
	{netip.MustParsePrefix("::/96"), "IPv4-compatible"},
	{netip.MustParsePrefix("100::/64"), "discard-only"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},
}

// localNAT64 is for translation within a site (RFC 8215), and so is private.
var localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")

// sixToFour carries an IPv4 address behind its first 16 bits (RFC 3056).
var sixToFour = netip.MustParsePrefix("2002::/16")

// usable says why an answer cannot be a server; empty where it can. An IPv6
// address that a packet leaves as IPv4 is judged by the IPv4 address in it.
func usable(a netip.Addr, allowPrivate bool, own []netip.Addr) string {
	a = a.Unmap()
	for _, o := range own {
		if o.Unmap() == a {
			return "our own address"
		}
	}
	if four, ok := embedded(a); ok {
		return usable(four, allowPrivate, own)
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
	case (a.IsPrivate() || sharedSpace.Contains(a) || localNAT64.Contains(a)) && !allowPrivate:
		return "private address (time.allow_private permits it)"
	}
	for _, n := range neverServers {
		if n.prefix.Contains(a) {
			return n.why + " address"
		}
	}
	return ""
}

// embedded is the IPv4 address in a NAT64 (RFC 6052) or 6to4 address.
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:])), true
	}
	return netip.Addr{}, false
}
