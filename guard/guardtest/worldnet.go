package guardtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// network is the world's network as the host sees it: links, names, servers.
type network struct {
	up      bool
	link    int
	prefix  netip.Prefix
	noV6    bool
	nodns   bool
	deaf6   bool    // IPv6 leads nowhere
	names   bool    // it names a time server
	clashes float64 // how often a drawn address is taken
	pool    []peer
	nts     []ntsHost
}

// peer is one server: how it behaves.
type peer struct {
	addr   netip.Addr
	lie    time.Duration
	silent bool
	kiss   string
}

// networks is the server that the network names: in its own private range.
var networks = netip.MustParseAddr("192.168.7.1")

var pools = []string{"2.world.pool.example"}

func (n *network) build() {
	n.up, n.link = true, 2
	n.prefix = netip.MustParsePrefix("2001:db8:1:1::/64")
	for i := range 12 {
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::123", 0x100+i))
		if i%4 == 3 {
			a = netip.MustParseAddr(fmt.Sprintf("203.%d.113.7", i))
		}
		n.pool = append(n.pool, peer{addr: a})
	}
	n.pool = append(n.pool, peer{addr: networks})
	n.buildNTS()
}

// misbehave makes addresses clash and at most one server of any four bad.
func (n *network) misbehave(rng *rand.Rand) {
	n.clashes = []float64{0, 0.02, 0.2}[rng.IntN(3)]
	liars := rng.IntN(2) // of any four servers chosen, so few that truechimers are the majority
	for i := range liars {
		p := &n.pool[i*5]
		switch rng.IntN(4) {
		case 0:
			p.lie = time.Hour
		case 1:
			p.silent = true
		case 2:
			p.kiss = []string{"DENY", "RATE", "RSTR", "XXXX"}[rng.IntN(4)]
		case 3:
			p.lie = -time.Duration(rng.Int64N(int64(100 * time.Hour)))
		}
	}
}

func (n *network) resolve(w *World, name string) []netip.Addr {
	if addrs, known := n.resolveNTS(name); known {
		return addrs
	}
	var out []netip.Addr
	for _, p := range n.pool {
		if p.addr != networks && (w.quiet || w.chance(0.6)) {
			out = append(out, p.addr)
		}
	}
	w.rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	if !w.quiet && w.chance(0.1) {
		out = append(out, netip.MustParseAddr("::1"), netip.MustParseAddr("192.168.1.1"), w.stable6())
	}
	return out
}

func (n *network) lookupError(*World) error {
	if n.nodns || !n.up {
		return errors.New("server misbehaving")
	}
	return nil
}

// answer decides what becomes of an ask: after how long, and with what.
func (n *network) answer(w *World, a guard.Ask) (time.Duration, func() guard.Answered) {
	if h := n.ntsServer(a.To.Addr()); h != nil {
		return w.answerNTS(a, h)
	}
	lost := func() guard.Answered { return guard.Answered{Err: errors.New("no answer")} }
	i := slices.IndexFunc(n.pool, func(p peer) bool { return p.addr == a.To.Addr() })
	if i < 0 || !n.up || n.pool[i].silent || n.deaf6 && a.To.Addr().Is6() || !w.quiet && w.chance(0.02) {
		return time.Hour, lost
	}
	p := n.pool[i]
	if p.kiss != "" {
		return w.soon(100 * time.Millisecond), func() guard.Answered { return guard.Answered{Kiss: p.kiss} }
	}
	return w.soon(100 * time.Millisecond), func() guard.Answered { return guard.Answered{Sample: w.sampleOf(a, p.lie)} }
}

func (w *World) stable6() netip.Addr {
	b := w.net.prefix.Addr().As16()
	b[15] = 0x55
	return netip.AddrFrom16(b)
}

var stable4 = netip.MustParseAddr("198.51.100.10")

func (w *World) host() guard.Host {
	h := guard.Host{BootID: bootID, MaxAddrs: 16, Devices: []string{"eth0", "eth1"}}
	if !w.net.up {
		return h
	}
	h.Link = guard.Link{Index: w.net.link, Name: fmt.Sprintf("eth%d", w.net.link-2)}
	h.Route4, h.Source4, h.Gateway4 = true, stable4, netip.MustParseAddr("198.51.100.1")
	h.Addrs = []netip.Addr{stable4}
	h.Gateways = []netip.Addr{h.Gateway4}
	h.OnLink = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	if w.net.names {
		h.NTP = []netip.Addr{networks, netip.MustParseAddr("127.0.0.1"), stable4}
	}
	if !w.net.noV6 {
		h.Addrs = append(h.Addrs, w.stable6())
		h.LinkAddrs = []netip.Addr{netip.MustParseAddr("fe80::55"), w.stable6()}
		h.Preferred = []netip.Addr{w.stable6()}
		h.Prefix, h.Source6, h.Route6 = w.net.prefix, w.stable6(), true
		h.Gateway6 = netip.MustParseAddr("fe80::1")
		h.Gateways = append(h.Gateways, h.Gateway6)
		h.OnLink = append(h.OnLink, w.net.prefix)
		for a := range w.kernel.addrs {
			h.Addrs, h.LinkAddrs = append(h.Addrs, a), append(h.LinkAddrs, a)
		}
		slices.SortFunc(h.Addrs, netip.Addr.Compare)
		slices.SortFunc(h.LinkAddrs, netip.Addr.Compare)
	} else {
		h.NoPrefix = "no global IPv6 address"
	}
	return h
}

func plainConfig() guard.Config {
	return guard.Config{
		Pools: pools, Use: 4, MinAgree: 3, PollMin: 64 * time.Second, PollMax: 1024 * time.Second,
		StepThreshold: 500 * time.Millisecond, StepWhen: "start", MaxForward: 1000 * time.Second, MaxBackward: 1000 * time.Second,
		Rotate: "query", Keep: 2 * time.Hour, MaxAddrs: 8,
		Shield: rules.Enforce, Preset: "workstation", Hold: 15 * time.Minute, LogGroup: 5, IfImpossible: "wait",
		Choices: presets["workstation"].Choices,
	}
}

func (w *World) randomConfig() guard.Config {
	c := plainConfig()
	c.Rotate = []string{"query", "query", "server", "off"}[w.rng.IntN(4)]
	c.Observe = w.chance(0.2)
	c.DHCP = []string{"join", "off"}[w.rng.IntN(2)]
	if w.chance(0.1) {
		c.Shield = rules.Observe
	}
	switch w.rng.IntN(5) {
	case 0: // NTS alone
		c.Pools = nil
		fallthrough
	case 1: // and beside a pool
		for _, h := range w.net.nts[:2+w.rng.IntN(3)] {
			c.NTS = append(c.NTS, guard.Server{Host: h.name, Port: 4460})
		}
	}
	if c.Pools == nil {
		c.MinAgree = min(c.MinAgree, len(c.NTS))
	}
	return c
}

// mischief has something go wrong every now and then, for as long as the world turns.
func (w *World) mischief() {
	w.in(time.Minute+w.soon(20*time.Minute), 0, func() {
		w.oneMischief()
		w.mischief()
	})
}

func (w *World) oneMischief() {
	what := []func(){w.flush, w.flush, w.suspend, w.foreignStep, w.linkDown, w.newPrefix, w.loseV6, w.badDisk, w.badKernel,
		w.loseAddress, w.warmth, w.reload, w.orderSync, w.disarm, w.kill, w.kill, w.stop, w.flapDNS, w.silence, w.adminAddress, w.impatience, w.restarts, w.names, w.applying}
	what[w.rng.IntN(len(what))]()
}

func (w *World) flush() {
	w.logf("mischief: flush")
	w.kernel.flush()
	w.judge.flushed = true
	w.culprit = "nft (4711)"
	w.in(w.soon(2*time.Millisecond), w.life, w.pokeWorker)
}

func (w *World) suspend() {
	d := w.soon(time.Hour)
	w.logf("mischief: suspend for %s", d)
	w.now.Boot += d
	w.now.Wall = w.now.Wall.Add(d)
}

func (w *World) foreignStep() {
	d := w.soon(20*time.Second) - 10*time.Second
	w.logf("mischief: somebody steps the clock by %s", d)
	w.now.Wall = w.now.Wall.Add(d)
	w.offset -= d
	w.judge.moved = true
}

// warmth makes the crystal go another way.
func (w *World) warmth() {
	w.drift = min(max(w.drift+w.rng.NormFloat64(), -honestDrift), honestDrift)
	w.logf("mischief: the clock is slow by %+.3f ppm", w.drift)
}

func (w *World) tellHost() {
	life := w.life
	w.in(w.soon(20*time.Millisecond), life, func() { w.step(guard.HostSeen{Host: w.host()}) })
	w.in(w.soon(20*time.Millisecond), life, w.pokeWorker)
}

func (w *World) dropLink() {
	for a := range w.kernel.addrs {
		delete(w.kernel.addrs, a)
	}
	w.judge.vanished = true
}

func (w *World) linkDown() {
	w.logf("mischief: link down")
	w.net.up = false
	w.dropLink()
	w.tellHost()
	w.in(w.soon(5*time.Minute), 0, func() {
		w.logf("link up")
		w.net.up, w.net.link = true, 2+w.rng.IntN(2)
		w.tellHost()
	})
}

func (w *World) newPrefix() {
	w.logf("mischief: another prefix")
	w.net.prefix = netip.MustParsePrefix(fmt.Sprintf("2001:db8:1:%x::/64", w.rng.IntN(1000)))
	w.tellHost()
}

func (w *World) loseV6() {
	w.logf("mischief: no IPv6")
	w.net.noV6 = true
	w.tellHost()
	w.in(w.soon(10*time.Minute), 0, func() { w.net.noV6 = false; w.tellHost() })
}

func (w *World) badDisk() {
	w.logf("mischief: disk full")
	w.diskBad = true
	w.in(w.soon(10*time.Minute), 0, func() { w.diskBad = false })
}

func (w *World) badKernel() {
	w.logf("mischief: kernel in trouble")
	w.judge.trouble = []float64{0.3, 1}[w.rng.IntN(2)]
	w.in(w.soon(10*time.Minute), 0, func() { w.judge.trouble = 0 })
}

func (w *World) loseAddress() {
	ours := w.kernel.ours()
	if len(ours) == 0 {
		return
	}
	slices.SortFunc(ours, netip.Addr.Compare)
	a := ours[w.rng.IntN(len(ours))]
	w.logf("mischief: somebody removes %s", a)
	delete(w.kernel.addrs, a)
	w.in(w.soon(2*time.Millisecond), w.life, w.pokeWorker)
}

func (w *World) reload() {
	w.logf("mischief: reload")
	w.conf = w.randomConfig()
	w.judge.reload = w.now.Mono
	w.step(guard.Configured{Config: w.conf})
}

func (w *World) order1(verb string, d time.Duration) guard.Key {
	return w.place(guard.Ordered{Verb: verb, For: d})
}

func (w *World) place(o guard.Ordered) guard.Key {
	w.orders++
	o.Key = guard.Key(1<<63) + w.orders
	w.step(o)
	return o.Key
}

func (w *World) orderSync() { w.order1("sync", 0) }

// impatience is an admin who wants the time every few seconds.
func (w *World) impatience() {
	for i := range 20 {
		w.in(time.Duration(i)*6*time.Second, 0, w.orderSync)
	}
}

// restarts is a service manager that restarts the daemon twenty times in a minute.
func (w *World) restarts() {
	for i := range 20 {
		w.in(time.Duration(i)*3*time.Second, 0, func() {
			w.kill()
			w.startIn(time.Millisecond)
		})
	}
}

func (w *World) disarm() { w.order1("disarm", w.soon(time.Hour)) }

func (w *World) kill() {
	w.logf("mischief: kill -9")
	w.life++
	w.working, w.done = false, true // whatever happens until the next start, nobody is there to see it
	w.startIn(w.soon(30 * time.Second))
}

// startIn starts the daemon after a while, unless something else does before.
func (w *World) startIn(d time.Duration) {
	w.starts++
	mine := w.starts
	w.in(d, 0, func() {
		if mine == w.starts {
			w.start()
		}
	})
}

func (w *World) stop() {
	w.logf("mischief: stop")
	life := w.life
	w.stopKey = w.order1("stop", 0)
	w.in(5*time.Second, life, func() {
		if !w.done {
			w.judge.fail("stop: not done after 5 s")
		}
	})
}

// names has the network begin or cease to name a time server.
func (w *World) names() {
	w.net.names = !w.net.names
	w.logf("mischief: the network names a time server: %t", w.net.names)
	w.tellHost()
}

func (w *World) flapDNS() {
	w.net.nodns = !w.net.nodns
}

func (w *World) silence() {
	p := &w.net.pool[w.rng.IntN(len(w.net.pool))]
	p.silent = !p.silent
}

// adminAddress is an address of our own shape that an admin made: not ours.
func (w *World) adminAddress() {
	if !w.net.up {
		return
	}
	b := w.net.prefix.Addr().As16()
	b[8], b[15] = 0xad, byte(w.rng.IntN(3))
	a := netip.AddrFrom16(b)
	w.kernel.addrs[a] = &liveAddr{Addr: guard.Addr{Addr: a, Link: w.net.link, Until: w.now.Mono + 10*time.Hour}}
	w.judge.admins = append(w.judge.admins, a)
	w.tellHost()
}
