package rules

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Service is a transport port, or a range of them, that stays reachable.
type Service struct {
	Proto  string // "tcp" or "udp"
	Port   uint16 // 1..65535
	Last   uint16 // of a range; 0: it is one port
	Device string // only of packets that came in by it; empty: by any
}

func (s Service) String() string {
	text := fmt.Sprintf("%s/%d", s.Proto, s.Port)
	if s.Last > 0 {
		text += fmt.Sprintf("-%d", s.Last)
	}
	if s.Device != "" {
		text += "@" + s.Device
	}
	return text
}

// covers reports whether a packet to that port passes, by whatever device.
func (s Service) covers(proto string, port uint16) bool {
	return s.Proto == proto && s.Port <= port && port <= max(s.Port, s.Last)
}

// ParseService reads tcp/22, udp/8000-8010 or tcp/443@eth0.
func ParseService(s string) (Service, error) {
	bad := fmt.Errorf("%q is no service such as tcp/22, udp/8000-8010 or tcp/443@eth0", s)
	text, device, some := strings.Cut(s, "@")
	proto, ports, _ := strings.Cut(text, "/")
	first, last, ranged := strings.Cut(ports, "-")
	x := Service{Proto: proto, Device: device}
	var ok bool
	if x.Port, ok = port(first); !ok || proto != "tcp" && proto != "udp" || some && CheckDevice(device) != nil {
		return Service{}, bad
	}
	if !ranged {
		return x, nil
	}
	if x.Last, ok = port(last); !ok || x.Last <= x.Port {
		return Service{}, bad
	}
	return x, nil
}

func port(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// ParsePrefix reads a prefix without bits beyond its length, or an address.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q is no prefix such as 2001:db8::/48", s)
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits beyond its length: %s is meant?", s, p.Masked())
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%q: write it as an IPv4 prefix", s)
	}
	return p, nil
}

// CheckDevice checks the name of an interface (dev_valid_name in the kernel), and
// that nft can write it: it takes * for a pattern and knows no escapes.
func CheckDevice(s string) error {
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/:\"\\*") ||
		strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return fmt.Errorf("%q is no name of an interface", s)
	}
	return nil
}
