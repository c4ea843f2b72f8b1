package lab

import "net/netip"

// DNSReply is what a name server that knows one name says to these bytes.
func DNSReply(b []byte) []byte {
	d := &DNS{names: map[string][]netip.Addr{}}
	d.Set(Pool, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1"))
	return d.reply(b)
}
