package guard

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"ntpveil/guard/selection"
	"ntpveil/rules"
)

// Status is the state of everything at an instant, for people and scripts. It
// changes nothing. Version is left to the caller.
func (g *Guard) Status(at Instant) Status {
	now := g.now
	g.now = at
	defer func() { g.now = now }()
	return Status{
		Synchronized:   g.synced(),
		Clock:          g.clockStatus(),
		Servers:        g.serverStatus(),
		Exposures:      g.exposureStatus(),
		ExposureCount:  len(g.addresses),
		Neighbourhoods: g.hoodStatus(),
		Others:         g.otherStatus(),
		OthersDropped:  g.seen.Shield.Others.Dropped,
		Shield:         g.shieldStatus(),
		Weaknesses:     g.weaknesses(),
	}
}

func (g *Guard) clockStatus() ClockStatus {
	c := g.clock
	s := ClockStatus{Mode: "discipline", Offset: g.offset().Seconds(), Frequency: c.frequency, Stratum: int(c.stratum), Leap: "unsynchronized"}
	if g.conf.Observe {
		s.Mode = "observe"
	}
	if c.lastAgreed != 0 {
		s.RootDistance = g.distance().Seconds()
	}
	if !c.syncedAt.IsZero() {
		s.LastSync = &c.syncedAt
	}
	if g.synced() {
		s.Leap = [...]string{"normal", "insert", "delete", "unsynchronized"}[c.leap&3]
	}
	if next := g.round.next; next > 0 && !g.round.active {
		t := g.wall(max(next, g.now.Mono))
		s.NextSync = &t
	}
	return s
}

func (g *Guard) serverStatus() []ServerStatus {
	out := []ServerStatus{}
	for _, s := range g.chosenOnes() {
		state, reason := g.serverState(s)
		line := ServerStatus{
			Address: s.addr.Addr().String(), Name: s.name, Pool: s.pool, State: state, Letter: g.letter(s, state), Reason: reason,
			Reach: s.reach, Poll: max(g.round.interval, pollOf(s)).Seconds(), Verdict: "clean", NTS: s.nts != nil,
		}
		if s.sampled {
			line.Offset, line.Delay, line.Stratum = s.sample.Offset.Seconds(), s.sample.Delay.Seconds(), int(s.sample.Stratum)
		}
		out = append(out, line)
	}
	return out
}

func pollOf(s *server) time.Duration {
	if s.rate == 0 {
		return 0
	}
	return bucketEvery << s.rate
}

func (g *Guard) serverState(s *server) (state, reason string) {
	switch {
	case s.denied > g.now.Mono:
		return "denied", s.failed
	case !g.routed(s.addr.Addr()):
		return "unreachable", "no route to its address family"
	case s.asked == 0 && g.whyNoKeys(s) != "":
		return "new", g.whyNoKeys(s)
	case g.whyNoKeys(s) != "" && s.nts.why != "":
		return "unreachable", g.whyNoKeys(s)
	case s.asked == 0 || !s.judged && s.failed == "" && s.reach>>1 == 0:
		return "new", cmp.Or(s.failed, "not answered yet")
	case s.reach == 0 || !s.judged && !s.sampled:
		return "unreachable", s.failed
	case s.judged && s.verdict.State == selection.Selected:
		return "selected", s.verdict.Reason
	case s.judged && s.verdict.State == selection.Falseticker:
		return "falseticker", s.verdict.Reason
	case s.judged:
		return "candidate", s.verdict.Reason
	}
	return "candidate", s.failed
}

func (g *Guard) exposureStatus() []ExposureStatus {
	out := []ExposureStatus{}
	for _, a := range g.addresses {
		e := ExposureStatus{Address: a.addr.String(), Interface: a.ifname, Kind: a.kind, Probes: a.dropped}
		if a.server.IsValid() {
			e.Server = a.server.Addr().String()
		}
		if !a.asked.IsZero() {
			e.AskedAt = &a.asked
		}
		if a.kind == "throw-away" {
			guarded := g.wall(a.guarded)
			e.GuardedUntil = &guarded
			if a.phase <= held {
				exists := g.wall(a.until)
				e.ExistsUntil = &exists
			}
		}
		out = append(out, e)
	}
	return out
}

func (g *Guard) hoodStatus() []HoodStatus {
	out := []HoodStatus{}
	for _, h := range g.seen.Shield.Hoods {
		s := HoodStatus{Prefix: h.Prefix.String(), Until: g.wall(h.Until), Dropped: h.Dropped}
		if h.Server.IsValid() {
			s.Server = h.Server.String()
		}
		out = append(out, s)
	}
	return out
}

func (g *Guard) otherStatus() []OtherStatus {
	out := []OtherStatus{}
	for _, o := range g.seen.Shield.Others.Most {
		out = append(out, OtherStatus{Prefix: o.Prefix.String(), Dropped: o.Dropped})
	}
	return out
}

func (g *Guard) shieldStatus() ShieldStatus {
	s := ShieldStatus{Table: "inet ntpveil", Preset: g.conf.Preset, Lists: g.listStatus(), Applied: g.applied.byAdmin}
	if by := g.applied.until; by != 0 {
		at := g.wall(by)
		s.ConfirmBy = &at
	}
	want, seen := g.shieldMode(), g.seen.Shield.Mode
	switch {
	case want == rules.Off:
		s.State, s.Reason = "off", "shield.mode is off"
	case g.seenErr != nil:
		s.State, s.Reason = "lost", g.seenErr.Error()
	case want != seen:
		s.State, s.Reason = "lost", "the rules are not in force (yet)"
	case want == rules.Disarmed:
		s.State, s.Reason = "disarmed", "by an admin: nothing is dropped"
		until := g.wall(g.orders.disarmed)
		s.Until = &until
	case want == rules.Observe:
		s.State, s.Reason = "observing", "shield.mode is observe: nothing is dropped"
	default:
		s.State = "in force"
	}
	return s
}

func (g *Guard) listStatus() []ListStatus {
	out := []ListStatus{}
	inForce := rules.SameLists(g.conf.Lists, g.seen.Shield.Lists)
	for _, l := range g.conf.Lists {
		out = append(out, ListStatus{File: l.Name, Prefixes: l.Prefixes(), InForce: inForce})
	}
	return out
}

// weaknesses says, in plain words, what is weaker than it could be and why.
func (g *Guard) weaknesses() []Weakness {
	out := []Weakness{}
	add := func(code, text string) { out = append(out, Weakness{code, text}) }
	if why := g.whyNotSynced(); why != "" {
		add("not-synchronized", why)
	}
	if st := g.shieldStatus(); st.State != "in force" {
		add("shield-"+st.State, "the shield drops nothing: "+st.Reason)
	}
	if g.listSaid != "" {
		add("lists", g.listSaid)
	}
	if g.clock.localRTC && !g.conf.Observe {
		add("local-rtc", "the hardware clock holds local time (/etc/adjtime), so that it is left alone, and the kernel says of its clock that it is not synchronised; `timedatectl set-local-rtc 0` changes that")
	}
	g.addressWeaknesses(add)
	if g.conf.MinAgree < 3 {
		add("min-agree", fmt.Sprintf("%d agreeing servers are enough to move the clock: a lying one may be among them", g.conf.MinAgree))
	}
	if g.alone() {
		add("dhcp-alone", fmt.Sprintf("only servers that the network names answer, %d that agree are enough: whoever runs the network can set the clock, within clock.max_change (time.dhcp)", g.enough()))
	}
	if g.ledger.err != nil {
		add("ledger", "no query leaves: "+g.ledger.err.Error())
	}
	if g.conf.Shield != rules.Off && g.conf.Hold > g.round.interval && g.round.interval > 0 {
		add("hold", fmt.Sprintf("neighbourhoods stay closed for %s, which is above the poll interval of %s: they never open", g.conf.Hold, g.round.interval))
	}
	for _, o := range g.barren() {
		add("unresolved", fmt.Sprintf("no server of %s is asked: %s", o.name, o.why))
	}
	for _, o := range g.sources {
		if why := g.whyNoPlace(o); why != "" {
			add("one-machine", why)
		}
	}
	for _, s := range g.chosenOnes() {
		if why := g.whyNoKeys(s); why != "" {
			add("nts", why+": it is not asked, since it is never asked without NTS")
		}
	}
	for _, h := range g.hoods {
		if _, said := g.hoodPrefix(h); said != "" {
			add("neighbourhood", said)
		}
	}
	return out
}

// barren are the names that no server came from, beside those that one did.
func (g *Guard) barren() (out []*source) {
	chosen := g.chosenOnes()
	for _, o := range g.sources {
		came := func(s *server) bool { return o.has(s) || o.pool && o.name == s.pool }
		if o.why != "" && len(chosen) > 0 && !slices.ContainsFunc(chosen, came) {
			out = append(out, o)
		}
	}
	return out
}

func (g *Guard) addressWeaknesses(add func(code, text string)) {
	mode, _, code, why := g.rotation()
	if code != "" {
		add(code, why)
	}
	if g.stableNow() {
		add("ask-stable", "servers see the stable address, unguarded, while the shield cannot be put up (shield.if_impossible)")
	}
	if slices.ContainsFunc(g.chosenOnes(), func(s *server) bool { return s.addr.Addr().Is4() }) {
		add("ipv4", "servers that are asked over IPv4 see the stable address")
	}
	if mode != "off" {
		add("sweep", fmt.Sprintf("whoever sweeps %s finds the stable address without being told", g.host.Prefix))
		add("neighbours", fmt.Sprintf("neighbours on %s see every address that is made", g.host.Link.Name))
	}
	if g.network.usable() && len(g.chosenOnes()) > 0 && len(g.chosenOnes()) < 4 {
		add("few-servers", fmt.Sprintf("%d servers: RFC 8633 asks for four", len(g.chosenOnes())))
	}
}

// whyNotSynced is empty where the clock is synchronised.
func (g *Guard) whyNotSynced() string {
	switch {
	case g.synced():
		return ""
	case g.hostSeen && !g.network.usable():
		return noNetwork
	case g.futile() != "":
		return g.futile()
	case len(g.chosenOnes()) == 0:
		return "no server is known yet: " + g.whyNoServers()
	case g.clock.why != "":
		return g.clock.why
	case g.whyKeyless() != "":
		return g.whyKeyless()
	case g.clock.rounds == 0:
		return "the first sync is not over"
	case g.clock.pending():
		return "the correction of the clock is under way"
	case g.clock.agreed && g.behind().Abs() > unsyncAt/2:
		return fmt.Sprintf("the clock is off by %+.3f s, which is slewed: clock.step forbids a step now, `ntpveil sync --step` permits it", g.behind().Seconds())
	}
	return "no sync succeeded for too long"
}

func (g *Guard) whyNoServers() string {
	for _, s := range g.sources {
		if s.why != "" {
			return fmt.Sprintf("%s: %s", s.name, s.why)
		}
	}
	if len(g.sources) == 0 {
		return "none is configured, and the network names none"
	}
	return "its name was not resolved yet"
}

// Line is the status in one line, for the service manager.
func (g *Guard) Line() string {
	shield := g.shieldStatus().State
	if !g.synced() {
		return fmt.Sprintf("not synchronised: %s; shield %s", g.whyNotSynced(), shield)
	}
	return fmt.Sprintf("synchronised: offset %+.6f s, root distance %.6f s, %d servers; shield %s",
		g.offset().Seconds(), g.distance().Seconds(), len(g.chosenOnes()), shield)
}

// Ready reports whether the daemon stands: configured, the host known, and the
// shield seen as it is wanted, or known to be impossible, and the clock no earlier
// than it was saved. It never waits for DNS.
func (g *Guard) Ready() bool {
	return g.configured && g.restored && g.hostSeen && g.seenOnce && !g.reviving() &&
		(g.seenErr != nil || g.seen.Shield.Mode == g.shieldMode())
}
