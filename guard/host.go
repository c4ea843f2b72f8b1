package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard/servo"
)

// network is the part of the host's facts whose change means that another
// network is there: back-offs of names end, the next sync comes at once.
type network struct {
	link    int
	prefix  netip.Prefix
	source4 netip.Addr
	source6 netip.Addr
	gw4     netip.Addr
	gw6     netip.Addr
}

func (g *Guard) configure(c Config) {
	reload := g.configured
	g.conf, g.configured = c, true
	g.overlay(reload)
	g.keepSources()
	g.keepServers()
	r := &g.round
	r.interval = min(max(r.interval, c.PollMin), c.PollMax)
	if reload {
		g.note(KindNotice, "configuration reloaded"+g.appliedStill())
		if !r.active && r.next > g.now.Mono+r.interval*11/10 { // by the interval that was configured before
			r.next = g.now.Mono + g.jitter(r.interval, 0.1)
		}
	}
}

func (g *Guard) seeHost(h Host) {
	first := !g.hostSeen
	g.host, g.hostSeen = h, true
	for _, a := range g.addresses {
		if a.kind == "throw-away" && a.phase != dead && a.link == h.Link.Index {
			a.ifname = h.Link.Name // it may have been renamed
		}
	}
	n := network{h.Link.Index, h.Prefix, h.Source4, h.Source6, h.Gateway4, h.Gateway6}
	if n == g.network {
		return
	}
	before := g.network
	g.network = n
	if first {
		return
	}
	if n.usable() {
		g.leaveNetwork()
	}
	for _, s := range g.sources {
		s.next, s.fails = min(s.next, g.now.Mono), 0
	}
	if g.clock.steer.Servo != nil {
		g.clock.steer.NewWays()
	}
	for _, s := range g.servers { // what came by another way tells nothing of the new one
		s.fresh = s.fresh && n.of(s.addr.Addr()) == before.of(s.addr.Addr())
	}
	if n.usable() {
		g.clock.stepAllowed = true
		g.round.next, g.round.soon = g.now.Mono, true // of one that is under way: after it
	}
}

// of is the part by which a server is reached.
func (n network) of(server netip.Addr) network {
	if server.Is4() {
		return network{link: n.link, source4: n.source4, gw4: n.gw4}
	}
	return network{link: n.link, prefix: n.prefix, source6: n.source6, gw6: n.gw6}
}

const noNetwork = "there is no default route"

func (n network) usable() bool { return n.source4.IsValid() || n.source6.IsValid() }

const (
	awake = 2 * time.Second       // a suspend is longer
	jump  = 10 * time.Millisecond // no slew parts the wall clock from boottime: what does is a step, but for how near the two can be read
)

// watchTime acts on a suspend and on a step of the wall clock by somebody else.
func (g *Guard) watchTime(slept, stepped time.Duration) {
	switch {
	case slept > awake:
		g.recall()
		g.note(KindNotice, fmt.Sprintf("the host slept for %s: asking for the time anew", slept.Round(time.Second)))
		g.disown()
	case stepped.Abs() > jump && !(g.underWay() && (stepped-g.clock.fix.Step).Abs() <= jump):
		g.recall()
		g.note(KindNotice, fmt.Sprintf("the clock was stepped by %s by another program: asking for the time anew", stepped.Round(time.Millisecond)))
		g.recordBuckets()
		g.retell(stepped)
		g.jumped(stepped)
	default:
		return
	}
	g.clock.stepAllowed, g.clock.steer.lost, g.clock.leapt = true, true, 0
	g.clock.agreed, g.clock.spoiled = false, true
	g.startOver()
}

// jumped notes what the kernel does where another program steps its clock
// (ntp_clear): it ends a slew, and calls its clock not synchronised. Of one that is
// stepped while a correction is on its way nobody knows which was first.
func (g *Guard) jumped(by time.Duration) {
	c := &g.clock
	if g.conf.Observe || c.pending() || c.steer.Servo == nil {
		return
	}
	c.believed = false
	c.steer.Step(by)
	c.steer.Steer(g.now.Mono, servo.Slew{}, c.frequency/ppm)
}

// own reports whether an address is the host's, throw-aways included.
func (g *Guard) own(a netip.Addr) bool { return slices.Contains(g.host.Addrs, a) }

// rotation is what the configuration and the host together allow: "query",
// "server" or "off", how many addresses there is room for, and why it is less
// than was asked for (empty where it is not).
func (g *Guard) rotation() (mode string, room int, code, why string) {
	h := g.host
	room = g.conf.MaxAddrs
	others := 0
	for _, a := range h.LinkAddrs {
		if g.address(a) == nil {
			others++
		}
	}
	if h.MaxAddrs > 0 {
		room = min(room, h.MaxAddrs-others-2)
	}
	if h.Link.Wireless { // controllers evict the oldest of more than 8 addresses, which may be the host's own
		room = min(room, 8-others)
	}
	mode = g.conf.Rotate
	switch {
	case mode == "off":
		return "off", 0, "rotate-off", "address.rotate is off: every server sees the stable address"
	case h.Link.Index == 0:
		return "off", 0, "no-network", noNetwork
	case h.Link.Tunnel:
		return "off", 0, "no-rotation", fmt.Sprintf("%s is a tunnel or point-to-point link: every server sees the stable address", h.Link.Name)
	case !h.Prefix.IsValid():
		return "off", 0, "no-rotation", h.NoPrefix + ": every server sees the stable address"
	case len(h.Preferred) == 0:
		return "off", 0, "no-rotation", "no preferred IPv6 address on " + h.Link.Name + ": a throw-away would be used by every program"
	case g.collided():
		return "off", 0, "no-rotation", "throw-away addresses do not come up on " + h.Link.Name + ": every server sees the stable address"
	case room < g.conf.Use:
		return "off", 0, "no-rotation", fmt.Sprintf("%s has room for %d more addresses, %d are needed: every server sees the stable address", h.Link.Name, max(room, 0), g.conf.Use)
	case mode == "query" && h.Link.Wireless:
		return "server", room, "rotate-server", h.Link.Name + " is wireless: one address a server instead of one a query"
	case mode == "query" && room < 6:
		return "server", room, "rotate-server", fmt.Sprintf("%s has room for %d more addresses: one a server instead of one a query", h.Link.Name, room)
	}
	return mode, room, "", ""
}
