package guardtest

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// ntsHost is a host of time.nts, and how it behaves.
type ntsHost struct {
	name   string
	addr   netip.Addr
	server netip.Addr // that asks are answered at
	named  string     // what the key exchange says of it: "", an address, or a name
	fails  float64    // how often a key exchange brings nothing
	mean   int        // how many cookies it gives in an exchange
	stale  bool       // now and then it gives a cookie again
	old    []string   // that it gives again
	naks   float64

	foreign bool // the server that it names is not its own, and knows none of its keys
}

// cookie is one that was given out: with which keys, and to whom.
type cookie struct {
	by   *ntsHost
	keys string
	from netip.Prefix
	used bool
}

func (n *network) buildNTS() {
	for i := range 4 {
		h := ntsHost{name: fmt.Sprintf("nts%d.world.example", i), addr: netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::4460", 0x200+i)), mean: 8}
		h.server = h.addr
		switch i {
		case 1:
			h.server = netip.MustParseAddr("2001:db8:211::123")
			h.named = h.server.String()
		case 2:
			h.server = netip.MustParseAddr("2001:db8:212::123")
			h.named = "ntp2.world.example"
		case 3:
			h.addr = netip.MustParseAddr("203.200.113.7")
			h.server = h.addr
		}
		n.nts = append(n.nts, h)
	}
}

// misbehaveNTS makes one host bad in one way.
func (w *World) misbehaveNTS() {
	h := &w.net.nts[w.rng.IntN(len(w.net.nts))]
	switch w.rng.IntN(7) {
	case 0:
		h.fails = 1
	case 1:
		h.fails, h.naks = 0.5, 0.5
	case 2:
		h.mean = 1
	case 3:
		h.named = []string{"::1", "127.0.0.1", "192.168.1.1", "nowhere.world.example", w.net.nts[0].name, w.net.nts[0].addr.String()}[w.rng.IntN(6)]
	case 4:
		h.stale = true
	case 5:
		h.naks = 1
	case 6:
		h.named, h.foreign = w.net.nts[w.rng.IntN(len(w.net.nts))].server.String(), true
	}
}

// resolveNTS answers for the names of the hosts and of one of their servers.
func (n *network) resolveNTS(name string) (addrs []netip.Addr, known bool) {
	for _, h := range n.nts {
		switch name {
		case h.name:
			return []netip.Addr{h.addr}, true
		case "ntp2.world.example":
			return []netip.Addr{netip.MustParseAddr("::1"), n.nts[2].server}, true
		case "nowhere.world.example":
			return nil, true
		}
	}
	return nil, false
}

func (w *World) doKeyings(jobs []guard.Keying) {
	keys := map[guard.Key]bool{}
	for _, k := range jobs {
		keys[k.Key] = true
		if w.keyings[k.Key] {
			continue
		}
		w.keyings[k.Key] = true
		w.judgeKeying(k)
		w.in(min(w.soon(2*time.Second), max(k.By-w.now.Mono, 1)), w.life, func() {
			if w.keyings[k.Key] {
				w.step(w.agree(k))
			}
		})
	}
	for k := range w.keyings {
		if !keys[k] {
			delete(w.keyings, k)
		}
	}
}

// agree is a key exchange as the host carries it out.
func (w *World) agree(k guard.Keying) guard.Keyed {
	i := slices.IndexFunc(w.net.nts, func(h ntsHost) bool { return h.addr == k.To.Addr() })
	if i < 0 || !w.net.up || w.chance(w.net.nts[i].fails) || !w.quiet && w.chance(0.02) {
		return guard.Keyed{Key: k.Key, Err: errors.New("exchange keys: the server was too slow")}
	}
	h := &w.net.nts[i]
	truth := w.now.Wall.Add(w.offset)
	w.given++
	ev := guard.Keyed{Key: k.Key, Host: h.named, Port: 123, Keys: guard.NTSKeys{AEAD: 15, ToServer: fmt.Appendf(nil, "keys %d", w.given),
		NotBefore: truth.Add(-30 * 24 * time.Hour), NotAfter: truth.Add(30 * 24 * time.Hour)}}
	ev.Cookies = w.give(h, string(ev.Keys.ToServer), k.From.Addr(), h.mean)
	return ev
}

// give makes cookies, each another, unless the host is one that gives old ones.
func (w *World) give(h *ntsHost, keys string, from netip.Addr, n int) (out []guard.Secret) {
	p, _ := from.Prefix(min(64, from.BitLen()))
	for range n {
		if h.stale && len(h.old) > 0 && w.chance(0.3) {
			again := h.old[w.rng.IntN(len(h.old))]
			w.cookies[again].keys, w.cookies[again].from = keys, p
			out = append(out, guard.Secret(again))
			continue
		}
		w.given++
		name := fmt.Sprintf("cookie %d", w.given)
		w.cookies[name] = &cookie{by: h, keys: keys, from: p}
		h.old = append(h.old, name)
		h.old = h.old[max(0, len(h.old)-30):]
		out = append(out, guard.Secret(name))
	}
	return out
}

// answerNTS is what becomes of an ask of a host's server.
func (w *World) answerNTS(a guard.Ask, h *ntsHost) (time.Duration, func() guard.Answered) {
	if !w.net.up || !w.quiet && w.chance(0.05) {
		return time.Hour, func() guard.Answered { return guard.Answered{Err: errors.New("no answer")} }
	}
	by := h
	if c := w.cookies[string(a.NTS.Cookie)]; c != nil {
		by = c.by
	}
	if w.chance(h.naks) || by != h && by.foreign {
		return time.Hour, func() guard.Answered {
			return guard.Answered{Err: errors.New("no answer that is authentic"), NAK: true}
		}
	}
	return w.soon(100 * time.Millisecond), func() guard.Answered {
		return guard.Answered{Sample: w.sampleOf(a, 0), Cookies: w.give(h, string(a.NTS.Keys.ToServer), a.From.Addr(), a.NTS.Want)}
	}
}

// ntsServer is the host whose server an ask is for.
func (n *network) ntsServer(to netip.Addr) *ntsHost {
	i := slices.IndexFunc(n.nts, func(h ntsHost) bool { return h.server == to })
	if i < 0 {
		return nil
	}
	return &n.nts[i]
}

// judgeKeying judges a key exchange as it leaves, by the truth: on disk, under
// guard, from an address that nobody was shown, with whom the admin wrote.
func (w *World) judgeKeying(k guard.Keying) {
	j := &w.judge
	j.Keyings++
	if !slices.ContainsFunc(w.net.nts, func(h ntsHost) bool { return h.addr == k.To.Addr() && h.name == k.Name && k.To.Port() == 4460 }) {
		j.fail("keys are exchanged with %s for %s", k.To, k.Name)
	}
	w.judgeCovered(fmt.Sprintf("key exchange %d from %s to %s", k.Key, k.From, k.To), k.From, k.By, rules.Solicited{Server: k.To, Our: k.From, TCP: true})
	if _, again := j.from[k.From.Addr()]; again && w.throwAway(k.From.Addr()) && w.conf.Rotate == "query" && w.now.Mono > j.reload+time.Minute {
		j.fail("key exchange %d from %s, which was used before", k.Key, k.From)
	}
	j.from[k.From.Addr()] = w.now.Mono - 2*oneBurst // nothing else may come from it
	w.judgeRate(k.To.Addr())
}

// judgeProtected: a host of time.nts is never asked without protection, and nobody
// else with it; no cookie is used twice, by any run of the daemon, nor from another
// network than it was given to, and by the time that it leaves the disk has it no more.
func (w *World) judgeProtected(a guard.Ask) {
	j := &w.judge
	h := w.net.ntsServer(a.To.Addr())
	if (h != nil) != (a.NTS != nil) {
		j.fail("ask %d to %s: protected %t", a.Key, a.To, a.NTS != nil)
	}
	if h == nil || a.NTS == nil {
		return
	}
	c := w.cookies[string(a.NTS.Cookie)]
	p, _ := a.From.Addr().Prefix(min(64, a.From.Addr().BitLen()))
	switch {
	case c == nil:
		j.fail("ask %d has a cookie that nobody gave", a.Key)
	case c.used:
		j.fail("%s is used twice, by ask %d", a.NTS.Cookie, a.Key)
	case c.keys != string(a.NTS.Keys.ToServer):
		j.fail("ask %d has the keys %s and a cookie of %s", a.Key, a.NTS.Keys.ToServer, c.keys)
	case c.from != p:
		j.fail("ask %d from %s has a cookie that was given to %s", a.Key, a.From, c.from)
	default:
		c.used = true
		j.Protected++
	}
	for _, r := range w.disk.NTS {
		if slices.ContainsFunc(r.Cookies, func(x guard.Secret) bool { return slices.Equal(x, a.NTS.Cookie) }) {
			j.fail("ask %d leaves and its cookie is still on disk", a.Key)
		}
	}
}
