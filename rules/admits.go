package rules

import "net/netip"

// Admits reports whether somebody who the host does not know yet can open a
// connection to a port of it on which it listens, by a device. Neighbourhoods are taken as they
// are in the shield; what the kernel learns by itself later on is not foreseen.
func (s Shield) Admits(from netip.Addr, device, proto string, port uint16) bool {
	from = from.WithZone("").Unmap()
	switch {
	case !s.Mode.Drops(), s.Choices.Hooks == AtForward, s.Choices.Listening, from.IsLoopback():
		return true
	case from.IsLinkLocalUnicast() && from.Is6() && !s.Choices.Everyone:
		return true
	}
	for _, p := range s.Trusted {
		if p.Contains(from) {
			return true
		}
	}
	for _, a := range s.Allow {
		if (a.Device == "" || a.Device == device) && a.covers(proto, port) {
			return true
		}
	}
	for _, h := range s.Hoods {
		if h.Prefix.Contains(from) {
			return false
		}
	}
	return !s.Choices.Everyone
}
