package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntpveil/rules"
)

const (
	guardAfter  = 24 * time.Hour // an element outlives its address: routers keep neighbour entries for hours
	keepAtLeast = time.Minute    // no address lives shorter than an exchange
	expiryLate  = 3 * time.Second
	noRotation  = time.Hour // rotation rests after addresses did not come up
	longStays   = 2         // tripwires that are kept longest when slots are short
)

// phase is how far the life of a throw-away address has come.
type phase uint8

const (
	unrecorded phase = iota // not on disk yet: not wished
	held                    // wished, with its guard
	leaving                 // no longer wished, not seen gone yet
	dead                    // gone; its guard stays until guarded
)

// address is one exposure: a throw-away address, or the stable one that a server saw.
type address struct {
	addr    netip.Addr
	link    int
	ifname  string
	kind    string // throw-away or stable
	server  netip.AddrPort
	port    uint16
	made    time.Duration
	until   time.Duration // end of its lifetime
	guarded time.Duration // end of its guard; never shortened
	meet    netip.Addr
	record  Key
	phase   phase
	seen    bool // in the kernel, once at least
	ready   bool // once at least
	asked   time.Time
	askedIn bool // in this run, by the clock that a step of it is told for
	dropped uint64
}

func (g *Guard) address(a netip.Addr) *address {
	for _, x := range g.addresses {
		if x.addr == a && x.kind == "throw-away" {
			return x
		}
	}
	return nil
}

// wished reports whether the address should be there.
func (a *address) wished() bool { return a.kind == "throw-away" && a.phase == held }

// taken counts the slots in use: addresses wished, or about to be.
func (g *Guard) taken() int {
	n := 0
	for _, a := range g.addresses {
		if a.kind == "throw-away" && a.phase <= held {
			n++
		}
	}
	return n
}

// makeAddress makes an exposure for a server, if there is a slot or one can be
// freed; nil means that there is none now.
func (g *Guard) makeAddress(to netip.AddrPort, port uint16, room int) *address {
	if g.taken() >= room && !g.evict(to) {
		return nil
	}
	keep := max(g.conf.Keep, keepAtLeast)
	a := &address{
		addr: g.interfaceID(), link: g.host.Link.Index, ifname: g.host.Link.Name, kind: "throw-away",
		server: to, port: port, made: g.now.Mono, until: g.now.Mono + keep, meet: g.host.Gateway6,
	}
	a.guarded = a.until + guardAfter
	a.record = g.recordAddress(a, fmt.Sprintf("throw-away address %s on %s for %s", a.addr, a.ifname, to.Addr()))
	g.remember(a)
	return a
}

// stableAddress notes that a server sees the stable address.
func (g *Guard) stableAddress(to netip.AddrPort, from netip.Addr, port uint16) *address {
	for _, a := range g.addresses {
		if a.kind == "stable" && a.addr == from && a.server == to {
			a.port = port
			a.record = g.recordAddress(a, "")
			return a
		}
	}
	a := &address{addr: from, link: g.host.Link.Index, ifname: g.host.Link.Name, kind: "stable",
		server: to, port: port, made: g.now.Mono, phase: dead}
	a.record = g.recordAddress(a, fmt.Sprintf("stable address %s for %s", from, to.Addr()))
	g.remember(a)
	return a
}

// remember adds an exposure; when there are too many, the oldest that is over
// is forgotten (its element in the kernel runs out by itself).
func (g *Guard) remember(a *address) {
	g.addresses = append(g.addresses, a)
	if len(g.addresses) <= maxAddresses {
		return
	}
	if i := slices.IndexFunc(g.addresses, func(x *address) bool { return x.phase == dead && !g.inUse(x) }); i >= 0 {
		g.addresses = slices.Delete(g.addresses, i, i+1)
	}
}

func (g *Guard) recordAddress(a *address, text string) Key {
	r := &ExposureRecord{Addr: a.addr, Link: a.link, Interface: a.ifname, Kind: a.kind,
		Server: a.server.Addr(), Port: a.port, AskedAt: a.asked}
	if a.kind == "throw-away" {
		r.ExistsUntil, r.GuardedUntil = g.wall(a.until), g.wall(a.guarded)
	}
	return g.record(Record{Kind: KindExposure, Text: text, Exposure: r})
}

// retell has the times of exposures follow a step of the clock: they are told by the
// clock as it is. Where it stood years back when the first servers were asked, a
// restart would take their guards for over.
func (g *Guard) retell(by time.Duration) {
	for _, a := range g.addresses {
		if a.askedIn {
			a.asked = a.asked.Add(by)
		}
		if a.kind == "throw-away" && (a.phase == held || a.phase == leaving) {
			g.recordAddress(a, "")
		}
	}
}

// interfaceID draws an address in the host's prefix: 64 random bits that are
// not reserved (RFC 5453) and not in use (RFC 8981 section 3.3.1).
func (g *Guard) interfaceID() netip.Addr {
	b := g.host.Prefix.Addr().As16()
	for {
		iid := g.rng.Uint64()
		binary.BigEndian.PutUint64(b[8:], iid)
		a := netip.AddrFrom16(b)
		if !reservedIID(iid) && !g.own(a) && g.address(a) == nil {
			return a
		}
	}
}

// reservedIID reports the interface IDs of RFC 5453 and the IANA registry: the
// subnet-router anycast, the block of ethernet proxies, the reserved anycast.
func reservedIID(iid uint64) bool {
	return iid == 0 ||
		iid&0xffffffffff000000 == 0x02005efffe000000 ||
		iid >= 0xfdffffffffffff80 && iid <= 0xfdffffffffffffff
}

// evict frees a slot: first tripwires that are neither the newest of a server
// nor among the longest staying, the oldest first; then the ones of the server
// that the slot is for; then the rest.
func (g *Guard) evict(to netip.AddrPort) bool {
	var idle []*address
	newest := map[netip.AddrPort]*address{}
	for _, a := range g.addresses { // in the order in which they were made
		if a.wished() && !g.inUse(a) {
			idle = append(idle, a)
		}
		if a.wished() {
			newest[a.server] = a
		}
	}
	rank := func(i int) int {
		a := idle[i]
		switch {
		case newest[a.server] != a && i >= longStays:
			return 0
		case newest[a.server] == a && a.server == to:
			return 1
		case newest[a.server] == a && i >= longStays:
			return 2
		}
		return 3
	}
	best := -1
	for i := range idle {
		if best < 0 || rank(i) < rank(best) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	g.drop(idle[best], "")
	return true
}

// inUse reports whether an exchange from an address is not over.
func (g *Guard) inUse(a *address) bool {
	return slices.ContainsFunc(g.queries, func(q *query) bool { return q.house == a })
}

// drop takes an address out of the wish; its guard stays.
func (g *Guard) drop(a *address, why string) {
	switch a.phase {
	case unrecorded:
		a.phase, a.guarded = dead, g.now.Mono // it never was: nothing to guard
	case held:
		a.phase = leaving
	}
	if why != "" {
		g.note(KindNotice, fmt.Sprintf("throw-away address %s removed: %s", a.addr, why))
	}
}

// advanceAddresses moves the addresses through their lives.
func (g *Guard) advanceAddresses() bool {
	changed := false
	mode, room, _, _ := g.rotation()
	for g.taken() > room && g.evict(netip.AddrPort{}) { // the host's own need the slots
		changed = true
	}
	for _, a := range g.addresses {
		if a.kind != "throw-away" {
			continue
		}
		before := a.phase
		switch a.phase {
		case unrecorded:
			switch {
			case g.ledger.wrote(a.record):
				a.phase = held
			case g.ledger.dropped(a.record):
				g.drop(a, "")
			}
		case held:
			g.endAddress(a, mode)
		case leaving:
			if !g.stands(a.addr) && (a.seen || g.due(a.until)) || g.due(a.until+expiryLate) {
				a.phase = dead
			}
		}
		changed = changed || a.phase != before
	}
	n := len(g.addresses)
	g.addresses = slices.DeleteFunc(g.addresses, func(a *address) bool {
		return a.kind == "throw-away" && a.phase == dead && g.due(a.guarded)
	})
	return changed || n != len(g.addresses)
}

// endAddress decides whether a held address has to go.
func (g *Guard) endAddress(a *address, mode string) {
	switch {
	case g.orders.stopping():
		g.drop(a, "")
	case a.link != g.host.Link.Index || !g.host.Prefix.Contains(a.addr):
		g.drop(a, "the link or its prefix changed")
	case len(g.host.Preferred) == 0:
		g.drop(a, "no preferred address is left on "+a.ifname)
	case mode == "off" && !g.inUse(a):
		g.drop(a, "")
	case g.conf.Shield == rules.Off && !g.inUse(a): // nothing guards it: it goes with its exchange
		g.drop(a, "")
	case a.seen && !g.stands(a.addr):
		a.phase = dead // lost: it is not put back
	case g.due(a.until):
		a.phase = leaving
	}
}

// stands reports whether the kernel was last seen to have an address.
func (g *Guard) stands(a netip.Addr) bool {
	_, found := slices.BinarySearchFunc(g.seen.Addrs, a, func(x Addr, y netip.Addr) int { return x.Addr.Compare(y) })
	return found
}

// collided reports whether rotation rests because addresses did not come up.
func (g *Guard) collided() bool { return g.round.noRotation > 0 && !g.due(g.round.noRotation) }

// seeKernel takes what is in force.
func (g *Guard) seeKernel(ev KernelSeen) {
	lists := g.seen.Shield.Lists
	g.seen, g.seenOnce, g.seenErr = ev.Kernel, true, ev.Err
	g.noteLists(lists, ev.ListErr)
	g.addrErr = ev.AddrErr
	slices.SortFunc(g.seen.Addrs, func(a, b Addr) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(g.seen.Shield.Exposed, func(a, b rules.Exposed) int { return a.Addr.Compare(b.Addr) })
	g.seenReady = make(map[netip.Addr]bool, len(ev.Ready))
	for _, a := range ev.Ready {
		g.seenReady[a] = true
	}
	for _, x := range g.seen.Shield.Exposed {
		if a := g.address(x.Addr); a != nil {
			a.dropped = x.Dropped
		}
	}
	for _, a := range g.addresses {
		a.seen = a.seen || g.stands(a.addr)
		a.ready = a.ready || g.seenReady[a.addr]
	}
	if ev.Culprit != "" {
		g.noteLoss(ev.Culprit, ev.OffFor)
	}
	g.noteImpossible()
}

// losses are what was said of the shield's losses. Two programs that take each other's
// tables away must not fill the ledger.
type losses struct {
	since        time.Duration // when the minute began
	said, unsaid int           // in it, and since one was said
}

const lossesSaid = 10 // a minute

func (g *Guard) noteLoss(culprit string, off time.Duration) {
	l := &g.losses
	if g.now.Mono-l.since >= time.Minute {
		l.since, l.said = g.now.Mono, 0
	}
	if l.said == lossesSaid {
		l.unsaid++
		return
	}
	text := fmt.Sprintf("shield lost: changed by %s, off for %s", culprit, off.Round(100*time.Microsecond))
	if l.unsaid > 0 {
		text += fmt.Sprintf("; and %d times before that", l.unsaid)
		l.unsaid = 0
	}
	if l.said++; l.said == lossesSaid {
		text += "; no more of this is said within the minute"
	}
	g.note(KindShield, text)
}

// adopt takes over, once, what a run before this one left behind: servers,
// buckets, how far the clock was moved, exposures of the ledger whose address or
// guard is not over, and exposed elements.
func (g *Guard) adopt() bool {
	if g.adopted {
		return false
	}
	g.adopted = true
	left := g.ledger.left
	g.restoreRules(left.Rules)
	g.ledger.left = Snapshot{}
	for _, r := range left.Servers {
		g.restoreServer(r)
	}
	for _, k := range left.NTS[:min(len(left.NTS), maxServers)] {
		g.ledger.keys[k.Name] = k
	}
	for _, p := range left.Pools {
		g.restorePool(p)
	}
	g.restoreSums(&left.Clock)
	g.beginSteering(left.Clock)
	g.findDead(left.Clock)
	g.revive()
	for _, r := range left.Exposures {
		g.adoptRecord(r)
	}
	for _, x := range g.seen.Shield.Exposed {
		if g.address(x.Addr) == nil {
			g.adoptAddress(x.Addr, netip.AddrPort{}, x.Until)
		}
	}
	return true
}

func (g *Guard) adoptRecord(r ExposureRecord) {
	if r.Kind != "throw-away" || g.address(r.Addr) != nil {
		return
	}
	guarded := min(g.mono(r.GuardedUntil), g.now.Mono+guardAfter+max(g.conf.Keep, keepAtLeast))
	inForce := slices.ContainsFunc(g.seen.Shield.Exposed, func(x rules.Exposed) bool { return x.Addr == r.Addr })
	if guarded > g.now.Mono || g.stands(r.Addr) || inForce { // whatever the clock was when it was written
		a := g.adoptAddress(r.Addr, netip.AddrPortFrom(r.Server, 123), guarded)
		a.asked, a.port = r.AskedAt, r.Port
	}
}

// adoptAddress makes a tripwire of an address of an earlier run, or the memory of one.
func (g *Guard) adoptAddress(addr netip.Addr, server netip.AddrPort, guarded time.Duration) *address {
	a := &address{addr: addr, kind: "throw-away", server: server, made: g.now.Mono - burst, phase: dead, // whenever it was, its burst is over
		until: g.now.Mono, guarded: guarded, ifname: g.host.Link.Name, link: g.host.Link.Index}
	for _, x := range g.seen.Shield.Exposed {
		if x.Addr == addr {
			a.guarded, a.dropped = max(a.guarded, x.Until), x.Dropped
		}
	}
	for _, x := range g.seen.Addrs {
		if x.Addr == addr {
			a.phase, a.seen, a.until, a.link, a.meet = held, true, x.Until, x.Link, x.Meet
			a.guarded = max(a.guarded, x.Until+guardAfter)
		}
	}
	g.remember(a)
	return a
}
