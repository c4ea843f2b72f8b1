package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntpveil/rules"
)

const shieldComplaint = time.Hour // how often an impossible shield is said anew

// shieldMode is what the shield should do now.
func (g *Guard) shieldMode() rules.Mode {
	if g.conf.Shield == rules.Off {
		return rules.Off
	}
	if g.orders.disarmed > g.now.Mono && g.conf.Shield == rules.Enforce {
		return rules.Disarmed
	}
	return g.conf.Shield
}

// advanceShield ends a disarm.
func (g *Guard) advanceShield() bool {
	changed := g.advanceClock()
	if g.orders.disarmed == 0 || !g.due(g.orders.disarmed) {
		return changed
	}
	g.orders.disarmed = 0
	g.note(KindShield, "shield armed again: the time of the disarm is over")
	return true
}

// noteImpossible says once an hour that the shield cannot be put up.
func (g *Guard) noteImpossible() {
	if g.seenErr == nil {
		if g.errLogged != 0 {
			g.note(KindShield, "shield in force again")
		}
		g.errLogged = 0
		return
	}
	if g.errLogged != 0 && g.now.Mono < g.errLogged+shieldComplaint {
		return
	}
	g.errLogged = g.now.Mono
	what := "no query leaves until it can (shield.if_impossible)"
	if g.conf.IfImpossible == "ask-stable" {
		what = "servers are asked without it (shield.if_impossible)"
	}
	g.note(KindShield, fmt.Sprintf("shield: %v; %s", g.seenErr, what))
}

// planKernel is the kernel's part. Before everything is known nothing is wished.
func (g *Guard) planKernel() Kernel {
	if !g.configured || !g.restored || !g.seenOnce || !g.hostSeen || !g.adopted {
		return Kernel{}
	}
	return Kernel{Act: true, Shield: g.planShield(), Addrs: g.planAddrs()}
}

func (g *Guard) planShield() rules.Shield {
	mode := g.shieldMode()
	if mode == rules.Off {
		return rules.Shield{}
	}
	return rules.Shield{
		Mode: mode, Preset: g.conf.Preset, Owner: g.conf.Owner, LogGroup: g.conf.LogGroup,
		Hold: g.conf.Hold, Choices: g.conf.Choices, Facts: g.planFacts(),
		Devices: slices.Clone(g.host.Devices), Allow: slices.Clone(g.conf.Allow), Trusted: slices.Clone(g.conf.Trusted),
		Lists: slices.Clone(g.conf.Lists), Exposed: g.planExposed(), Solicited: g.planSolicited(), Hoods: g.planHoods(),
	}
}

// planFacts are what the preset needs of the host. Most need nothing, and the
// frame is not made anew at every change of an address.
func (g *Guard) planFacts() (f rules.Facts) {
	if g.conf.Choices.Hooks != rules.AtInput {
		f.Outside = slices.Clone(g.conf.Outside)
		if len(f.Outside) == 0 && g.host.Link.Name != "" {
			f.Outside = []string{g.host.Link.Name}
		}
	}
	if g.conf.Choices.Learn != rules.FromNothing {
		f.Own = g.conf.Choices.Own(g.host.OwnPrefixes())
	}
	if len(g.conf.Lists) > 0 {
		f.Near = g.near()
	}
	return f
}

// near is what of the host's own no list blocks. Throw-away addresses come and go,
// and lie on the link.
func (g *Guard) near() []netip.Prefix {
	h := g.host
	h.Addrs = slices.DeleteFunc(slices.Clone(h.Addrs), func(a netip.Addr) bool { return g.address(a) != nil })
	return rules.Widest(h.OwnPrefixes())
}

// noteLists says when the lists of blocked prefixes came into force, changed or
// could not be read.
func (g *Guard) noteLists(before []rules.List, err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != g.listSaid {
		g.note(KindShield, said)
	}
	g.listSaid = said
	switch now := g.seen.Shield.Lists; {
	case rules.SameLists(before, now):
	case len(now) == 0:
		g.note(KindShield, "no list of prefixes is blocked any more")
	default:
		g.note(KindShield, fmt.Sprintf("%d prefixes of %d lists are blocked", prefixesOf(now), len(now)))
	}
}

func prefixesOf(lists []rules.List) (n int) {
	for _, l := range lists {
		n += l.Prefixes()
	}
	return n
}

func (g *Guard) planAddrs() []Addr {
	var out []Addr
	for _, a := range g.addresses {
		if a.wished() {
			out = append(out, Addr{Addr: a.addr, Link: a.link, Until: a.until, Meet: a.meet})
		}
	}
	slices.SortFunc(out, func(a, b Addr) int { return a.Addr.Compare(b.Addr) })
	return out
}

// planExposed guards every throw-away address from before it exists until a day
// after its end.
func (g *Guard) planExposed() []rules.Exposed {
	var out []rules.Exposed
	for _, a := range g.addresses {
		if a.kind == "throw-away" && a.phase > unrecorded && a.guarded > g.now.Mono {
			out = append(out, rules.Exposed{Addr: a.addr, Until: a.guarded})
		}
	}
	slices.SortFunc(out, func(a, b rules.Exposed) int { return a.Addr.Compare(b.Addr) })
	return out
}

func (g *Guard) planSolicited() []rules.Solicited {
	var out []rules.Solicited
	for _, q := range g.queries {
		if q.house == nil || q.house.kind == "throw-away" && q.house.phase != held || !g.ledger.wrote(q.house.record) {
			continue
		}
		out = append(out, rules.Solicited{Server: q.to, Our: q.from, TCP: q.keys, Until: q.latest + lingerFor})
	}
	slices.SortFunc(out, rules.Solicited.Compare)
	return out
}
