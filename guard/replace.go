package guard

import (
	"fmt"
	"time"

	"ntpveil/guard/selection"
)

const (
	outvoted = 3              // syncs in a row in which a majority was against a server until it is replaced
	shunFor  = 24 * time.Hour // no pool's place is given to it again in that time
)

// replaceLost gives the places of lost servers to others, where there are any.
func (g *Guard) replaceLost() bool {
	changed := false
	for _, s := range g.servers {
		why := s.lost(g)
		if !s.chosen || why == "" {
			continue
		}
		if s.pool == "" {
			changed = g.nextAnswer(s, why) || changed
			continue
		}
		if _, pool := g.pick(); pool == nil {
			changed = g.askPools() || changed
			continue
		}
		if s.wrong >= outvoted {
			s.shunned = g.now.Mono + shunFor
		}
		g.unseat(s, why)
		return true
	}
	return changed
}

// deaf6 reports whether IPv6 seems to lead nowhere: nothing was ever agreed on,
// several servers were asked over it, none answered, and there is IPv4.
func (g *Guard) deaf6() bool {
	if g.clock.lastAgreed != 0 || !g.host.Source4.IsValid() {
		return false
	}
	asked := 0
	for _, s := range g.servers {
		if s.addr.Addr().Is4() || s.asked == 0 {
			continue
		}
		if s.reach != 0 {
			return false
		}
		asked++
	}
	return asked >= 3
}

// nextAnswer tries another address of a configured server that is lost. The
// admin's choice itself stays, and status says what is wrong with it.
func (g *Guard) nextAnswer(s *server, why string) bool {
	changed := false
	for _, o := range g.sources {
		if !o.has(s) {
			continue
		}
		changed = o.again() || changed
		turn, found := g.better(o, s)
		if !found {
			continue
		}
		o.turn = turn
		g.unseat(s, why)
		return true
	}
	return changed
}

// lost is why a server should give its place away, empty where it should not.
// While a sync is under way nobody is judged by an answer that may yet come.
func (s *server) lost(g *Guard) string {
	switch {
	case g.round.active:
		return ""
	case s.asked > 0 && s.reach == 0 && s.addr.Addr().Is6() && g.deaf6():
		return "no server answers over IPv6"
	case s.denied > g.now.Mono:
		return "it asked not to be asked (kiss-o'-death)"
	case s.asked >= reachLost && s.reach == 0:
		return fmt.Sprintf("no answer to the last %d queries", reachLost)
	case !g.routed(s.addr.Addr()):
		return "no route to its address family"
	case g.besideHost(s):
		return "a host of time.nts leads to the same block"
	case s.pool != "" && s.wrong >= outvoted:
		return fmt.Sprintf("a majority was against it in %d syncs in a row", s.wrong)
	}
	return ""
}

// tally counts in how many syncs in a row a majority was against a server. Where
// nobody won, nobody was wrong. A configured server is named, and stays.
func (g *Guard) tally(s *server, agreed bool) {
	switch {
	case !agreed || s.verdict.State == selection.Unusable:
	case s.verdict.State == selection.Falseticker:
		if s.wrong++; s.wrong == outvoted && s.pool == "" {
			g.note(KindNotice, fmt.Sprintf("server %s (%s) is wrong, or all others are: a majority was against it in %d syncs in a row", s.addr.Addr(), s.name, s.wrong))
		}
	default:
		s.wrong = 0
	}
}

// replaceOne takes the place of one server of a pool: the one that was there longest.
func (g *Guard) replaceOne(pool string) {
	for _, s := range g.servers {
		if s.chosen && s.pool == pool {
			g.unseat(s, "its turn to be replaced")
			s.reach = 0 // and it is not chosen again from the same answers
			return
		}
	}
}
