package guard

import (
	"net/netip"
	"slices"
	"time"

	"ntpveil/rules"
)

// pass is the proof that the rules of an exposure were seen in force. It can
// only be made here: promise 1 has one place.
type pass struct{ granted bool }

// Granted reports whether the ask went through the gate; the zero Ask did not.
func (a Ask) Granted() bool { return a.pass.granted }

// Granted reports the same of a key exchange.
func (k Keying) Granted() bool { return k.pass.granted }

// grant makes a pass if what was last seen in the kernel covers the exchange
// until its end: the frame of the shield, the exposed address, the one
// solicited tuple, the closed neighbourhood, and the address itself ready.
//
// devices are those whose ingress must be guarded: all of the host's before the
// query leaves; afterwards the one that the answer comes in by, so that a device
// that appears meanwhile does not cost us the answer.
func (g *Guard) grant(q *query, by time.Duration, devices []string) pass {
	if g.orders.stopping() || !g.onDisk(q) {
		return pass{}
	}
	if q.house.kind == "throw-away" {
		if q.house.phase != held || !g.seenReady[q.house.addr] || !g.stands(q.house.addr) {
			return pass{}
		}
	} else if !g.own(q.house.addr) {
		return pass{}
	}
	return pass{granted: g.covered(q, by, devices)}
}

// onDisk reports whether what a query spends, and whom it shows what, is on disk.
func (g *Guard) onDisk(q *query) bool {
	return g.ledger.wrote(q.token) && g.ledger.wrote(q.cookie) && g.ledger.wrote(q.house.record)
}

func (g *Guard) covered(q *query, by time.Duration, devices []string) bool {
	if g.conf.Shield == rules.Off || g.stableNow() && q.house.kind == "stable" {
		return true
	}
	s := g.seen.Shield
	if s.Mode != g.shieldMode() {
		return false
	}
	for _, d := range devices {
		if !slices.Contains(s.Devices, d) {
			return false
		}
	}
	if q.house.kind == "throw-away" && !guards(s.Exposed, q.house, by) {
		return false
	}
	if !solicits(s.Solicited, q, by) {
		return false
	}
	prefix, _ := g.neighbourhood(q.srv)
	return !prefix.IsValid() || closed(s.Hoods, prefix, by)
}

func guards(seen []rules.Exposed, a *address, by time.Duration) bool {
	i, found := slices.BinarySearchFunc(seen, a.addr, func(x rules.Exposed, y netip.Addr) int { return x.Addr.Compare(y) })
	return found && seen[i].Until >= max(by, a.until)
}

func solicits(seen []rules.Solicited, q *query, by time.Duration) bool {
	return slices.ContainsFunc(seen, func(x rules.Solicited) bool {
		return x.Our == q.from && x.Server == q.to && x.TCP == q.keys && x.Until >= by
	})
}

func closed(seen []rules.Hood, p netip.Prefix, by time.Duration) bool {
	return slices.ContainsFunc(seen, func(x rules.Hood) bool { return x.Prefix == p && x.Until >= by })
}
