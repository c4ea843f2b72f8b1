package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ntpveil/guard/selection"
)

// The servers that the network names: they vote with the others, and are believed
// alone only where no other answers. Whoever runs the network chose them, so they
// may be private, and have no neighbourhood.

const (
	maxNetwork  = 4      // of those that the network names
	networkName = "dhcp" // what stands for their name
)

// wantNetwork are the servers that the network names, as far as they are asked.
func (g *Guard) wantNetwork() (all []netip.AddrPort) {
	if g.conf.DHCP != "join" {
		return nil
	}
	for _, a := range g.host.NTP {
		a = a.Unmap().WithZone("")
		if at := netip.AddrPortFrom(a, 123); len(all) < maxNetwork && usable(a, true, g.host.Addrs) == "" && !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	return all
}

// seatNetwork gives them their places, and takes them back.
func (g *Guard) seatNetwork() bool {
	changed, want := false, g.wantNetwork()
	for _, s := range g.servers {
		if s.chosen && s.network && !slices.Contains(want, s.addr) {
			g.unseat(s, "the network does not name it any more")
			changed = true
		}
	}
	for _, a := range want {
		if s := g.server(a); s != nil && s.chosen {
			continue // it has a place, perhaps as one of the others
		}
		g.seat(a, networkName, "", "the network names it", nil)
		g.server(a).network = true
		changed = true
	}
	return changed
}

// alone reports whether of all servers only those answer that the network names.
// Beside hosts of time.nts they never are alone: whoever keeps their keys from us
// would set the clock (RFC 8915 section 8.7).
func (g *Guard) alone() bool {
	some := false
	if len(g.conf.NTS) > 0 {
		return false
	}
	for _, s := range g.chosenOnes() {
		if !s.network && s.reach != 0 {
			return false
		}
		some = some || s.network && s.reach != 0
	}
	return some
}

// enough is how many servers must agree. Those that the network names are seldom
// as many as min_agree: alone, all that are to be had are enough.
func (g *Guard) enough() int {
	if !g.alone() {
		return g.conf.MinAgree
	}
	had := 0
	for _, s := range g.chosenOnes() {
		if s.network && (s.reach != 0 || s.asked < reachLost) {
			had++
		}
	}
	return min(g.conf.MinAgree, had)
}

// networkAlone is why a vote that was won is not believed: the network's servers
// alone won it, though others answer.
func (g *Guard) networkAlone(res selection.Result, from []*server) string {
	if !res.Agreed || g.alone() {
		return ""
	}
	var names []string
	for i, s := range from {
		switch v := res.Verdicts[i].State; {
		case v != selection.Selected && v != selection.Apart:
		case !s.network:
			return ""
		default:
			names = append(names, s.addr.Addr().String())
		}
	}
	return fmt.Sprintf("only servers that the network names agree (%s): they are used alone where no other answers", strings.Join(names, ", "))
}

// annul makes a vote that was won one that nobody won.
func annul(res *selection.Result, why string) {
	if why == "" {
		return
	}
	res.Agreed, res.Reason = false, why
	for i, v := range res.Verdicts {
		if v.State != selection.Unusable {
			res.Verdicts[i] = selection.Verdict{State: selection.Undecided, Reason: why}
		}
	}
}

// firstWait is how long the first sync waits for names: longer where nobody is
// there to be asked but those that the network names.
func (g *Guard) firstWait() time.Duration {
	if slices.ContainsFunc(g.chosenOnes(), func(s *server) bool { return !s.network }) {
		return firstAnswers
	}
	return lookupTime + firstAnswers
}
