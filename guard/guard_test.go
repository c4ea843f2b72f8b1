package guard

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/rules"
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
)

// at is a Guard that stands in the middle of things: configured, on a host with
// a prefix, an hour after boot.
func at() *Guard {
	g := New([32]byte{1}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	g.now = Instant{Mono: time.Hour, Boot: time.Hour, Wall: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)}
	g.conf = Config{Use: 4, MinAgree: 3, PollMin: 64 * time.Second, PollMax: 2048 * time.Second, Rotate: "query", Keep: 2 * time.Hour, MaxAddrs: 8,
		Shield: rules.Enforce, Hold: 15 * time.Minute, StepWhen: "start", StepThreshold: time.Second / 2, MaxForward: 10 * time.Second, MaxBackward: 5 * time.Second}
	g.host = Host{BootID: "this boot",
		Link: Link{Index: 2, Name: "eth0"}, Prefix: prefix("2001:db8:1:1::/64"), Source6: addr("2001:db8:1:1::55"), Source4: addr("192.0.2.9"),
		Addrs: []netip.Addr{addr("2001:db8:1:1::55"), addr("192.0.2.9")}, LinkAddrs: []netip.Addr{addr("fe80::55"), addr("2001:db8:1:1::55")},
		Preferred: []netip.Addr{addr("2001:db8:1:1::55")}, MaxAddrs: 16, Devices: []string{"eth0"},
	}
	g.beginSteering(ClockRecord{})
	return g
}

func poolServer(a string) *server {
	return &server{addr: netip.AddrPortFrom(addr(a), 123), pool: "p", chosen: true}
}

// TestNeighbourhoods: narrowed or skipped around what is the host's own, and
// only where the pool chose the server.
func TestNeighbourhoods(t *testing.T) {
	for _, tt := range []struct {
		name, server, want, said string
		host                     func(h *Host, c *Config)
	}{
		{"nothing near", "2001:db8:101::7", "2001:db8:101::/48", "", nil},
		{"IPv4", "203.0.113.7", "203.0.113.0/24", "", nil},
		{"our address in the /48", "2001:db8:1:7700::7", "2001:db8:1:7700::/56", "our own address", nil},
		{"our address in the /56", "2001:db8:1:2::7", "2001:db8:1:2::/64", "our own address", nil},
		{"our own link", "2001:db8:1:1::7", "2001:db8:1:1::7/128", "our own address", nil},
		{"on-link", "2001:db8:1:1::7", "", "the on-link prefix", func(h *Host, _ *Config) { h.OnLink = []netip.Prefix{prefix("2001:db8:1:1::/64")} }},
		{"a gateway", "203.0.113.7", "203.0.113.0/28", "the gateway 203.0.113.200", func(h *Host, _ *Config) { h.Gateways = []netip.Addr{addr("203.0.113.200")} }},
		{"a resolver near", "203.0.113.7", "203.0.113.7/32", "the resolver 203.0.113.8", func(h *Host, _ *Config) { h.Resolvers = []netip.Addr{addr("203.0.113.8")} }},
		{"the resolver itself", "203.0.113.7", "", "the resolver 203.0.113.7", func(h *Host, _ *Config) { h.Resolvers = []netip.Addr{addr("203.0.113.7")} }},
		{"the peer of a session", "2001:db8:101::7", "2001:db8:101::/56", "the peer of an open session", func(h *Host, _ *Config) { h.Peers = []netip.Addr{addr("2001:db8:101:ff00::1")} }},
		{"trusted", "2001:db8:101::7", "", "the trusted prefix", func(_ *Host, c *Config) { c.Trusted = []netip.Prefix{prefix("2001:db8:101::7/128")} }},
		{"NAT64", "64:ff9b::203.0.113.7", "64:ff9b::cb00:7100/120", "", nil},
		{"the preset's IPv6 length", "2001:db8:101::7", "2001:db8:100::/40", "", func(_ *Host, c *Config) { c.Choices.Hood6 = 40 }},
		{"a long one, narrowed", "2001:db8:1:1::7", "2001:db8:1:1::7/128", "our own address", func(_ *Host, c *Config) { c.Choices.Hood6 = 60 }},
		{"the preset's IPv4 length, narrowed", "192.0.3.7", "192.0.3.0/24", "our own address", func(_ *Host, c *Config) { c.Choices.Hood4 = 23 }},
		{"the preset's length in NAT64", "64:ff9b::203.0.113.7", "64:ff9b::cb00:0/112", "", func(_ *Host, c *Config) { c.Choices.Hood4 = 16 }},
		{"private", "10.1.2.3", "", "", nil},
		{"ULA", "fd00::7", "", "", nil},
		{"shared space", "100.64.1.1", "", "", nil},
	} {
		g := at()
		if tt.host != nil {
			tt.host(&g.host, &g.conf)
		}
		p, said := g.neighbourhood(poolServer(tt.server))
		got := ""
		if p.IsValid() {
			got = p.String()
		}
		if got != tt.want || !strings.Contains(said, tt.said) || (said == "") != (tt.said == "") {
			t.Errorf("%s: %q, said %q; want %q, %q", tt.name, got, said, tt.want, tt.said)
		}
	}
	g := at()
	configured := poolServer("2001:db8:101::7")
	configured.pool = ""
	if p, _ := g.neighbourhood(configured); p.IsValid() {
		t.Errorf("a configured server has the neighbourhood %s", p)
	}
}

// TestRotation: what the host allows, and the reason where it is less.
func TestRotation(t *testing.T) {
	for _, tt := range []struct {
		name, mode, code string
		room             int
		host             func(h *Host, c *Config)
	}{
		{"a plain host", "query", "", 8, func(*Host, *Config) {}},
		{"as configured", "off", "rotate-off", 0, func(_ *Host, c *Config) { c.Rotate = "off" }},
		{"few slots", "server", "rotate-server", 5, func(h *Host, _ *Config) { h.MaxAddrs = 9 }},
		{"hardly any", "off", "no-rotation", 0, func(h *Host, _ *Config) { h.MaxAddrs = 6 }},
		{"wireless", "server", "rotate-server", 6, func(h *Host, _ *Config) { h.Link.Wireless = true }},
		{"a tunnel", "off", "no-rotation", 0, func(h *Host, _ *Config) { h.Link.Tunnel = true }},
		{"no prefix", "off", "no-rotation", 0, func(h *Host, _ *Config) { h.Prefix, h.NoPrefix = netip.Prefix{}, "a single /128" }},
		{"nothing preferred", "off", "no-rotation", 0, func(h *Host, _ *Config) { h.Preferred = nil }},
		{"no limit", "query", "", 8, func(h *Host, _ *Config) { h.MaxAddrs = 0 }},
	} {
		g := at()
		tt.host(&g.host, &g.conf)
		if mode, room, code, why := g.rotation(); mode != tt.mode || code != tt.code || room != tt.room || (why == "") != (code == "") {
			t.Errorf("%s: %q, room %d, %q, %q", tt.name, mode, room, code, why)
		}
	}
}

// TestLimitsOfTheClock: what max_change and the build date refuse.
func TestLimitsOfTheClock(t *testing.T) {
	for _, tt := range []struct {
		name   string
		offset time.Duration
		setUp  func(g *Guard)
		ok     bool
	}{
		{"within", 9 * time.Second, func(*Guard) {}, true},
		{"beyond", 11 * time.Second, func(*Guard) {}, false},
		{"back, within", -4 * time.Second, func(*Guard) {}, true},
		{"back, beyond", -6 * time.Second, func(*Guard) {}, false},
		{"in sum", 5 * time.Second, func(g *Guard) { g.clock.forward = 6 * time.Second }, false},
		{"an admin permits it", time.Hour, func(g *Guard) { g.orders.syncs = []syncOrder{{step: true}} }, true},
		{"a dead battery", 300 * 24 * time.Hour, func(g *Guard) { g.now.Wall = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC) }, true},
		{"before the build, whoever permits it", -400 * 24 * time.Hour, func(g *Guard) { g.orders.syncs = []syncOrder{{step: true}} }, false},
	} {
		g := at()
		tt.setUp(g)
		if _, why := g.ground(tt.offset); (why == "") != tt.ok {
			t.Errorf("%s: %q", tt.name, why)
		}
	}
	g := at()
	g.now.Wall = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)
	if on, _ := g.ground(300 * 24 * time.Hour); on != deadClock {
		t.Error("a clock from before the build may not go forward")
	}
	g.clock.wild = true
	if on, _ := g.ground(300 * 24 * time.Hour); on != refused {
		t.Error("it may twice a boot")
	}
}

// TestCorrections: step or slew, once.
func TestCorrections(t *testing.T) {
	for _, tt := range []struct {
		name       string
		offset     time.Duration
		when       string
		start      bool
		step, slew time.Duration
	}{
		{"small", 20 * time.Millisecond, "start", true, 0, 20 * time.Millisecond},
		{"large at start", 3 * time.Second, "start", true, 3 * time.Second, 0},
		{"large later", 3 * time.Second, "start", false, 0, slewMost},
		{"large, always", -3 * time.Second, "always", false, -3 * time.Second, 0},
		{"large, never", -3 * time.Second, "never", true, 0, -slewMost},
	} {
		g := at()
		g.conf.StepWhen, g.clock.stepAllowed, g.clock.offset = tt.when, tt.start, tt.offset
		g.correct(0)
		if f := g.clock.fix; f.Key == 0 || f.Step != tt.step || f.Slew != tt.slew || !f.Sync {
			t.Errorf("%s: %+v", tt.name, f)
		}
		key := g.clock.fix.Key
		g.seeClock(ClockSeen{Key: key, Made: tt.step})
		g.seeClock(ClockSeen{Key: key, Made: tt.step})
		if moved := g.clock.forward + g.clock.backward; moved != (tt.step + tt.slew).Abs() {
			t.Errorf("%s: counted as %s", tt.name, moved)
		}
	}
}

// TestEviction: the order in which tripwires give their slots up.
func TestEviction(t *testing.T) {
	g := at()
	a, b := poolServer("2001:db8:101::7"), poolServer("2001:db8:102::7")
	for i, s := range []*server{a, b, a, b, a, b} {
		g.remember(&address{addr: addr("2001:db8:1:1::1000").Next(), kind: "throw-away", server: s.addr, phase: held, made: time.Duration(i)})
	}
	for i, want := range []time.Duration{2, 3, 5, 1} { // neither newest nor long-staying; then what is b's newest, for b
		for j, x := range g.addresses {
			x.addr = netip.AddrFrom16([16]byte{0x20, 1, 15: byte(j)})
		}
		if !g.evict(b.addr) {
			t.Fatalf("eviction %d found nothing", i)
		}
		for _, x := range g.addresses {
			if x.phase == leaving {
				if x.made != want {
					t.Errorf("eviction %d took %d, want %d", i, x.made, want)
				}
				x.phase = dead
			}
		}
	}
}

// TestInterfaceIDs: in the prefix, never reserved, never twice.
func TestInterfaceIDs(t *testing.T) {
	g := at()
	seen := map[netip.Addr]bool{}
	for range 2000 {
		a := g.interfaceID()
		if !g.host.Prefix.Contains(a) || seen[a] {
			t.Fatalf("%s", a)
		}
		seen[a] = true
	}
	for _, iid := range []uint64{0, 0x02005efffe001234, 0xfdffffffffffff80, 0xfdffffffffffffff} {
		if !reservedIID(iid) {
			t.Errorf("%x is not reserved", iid)
		}
	}
}

// TestRecordsAreBounded: a ledger that never answers costs bounded memory, and
// the loss is counted.
func TestRecordsAreBounded(t *testing.T) {
	g := at()
	for range 3 * maxRecords {
		g.note(KindNotice, "again")
	}
	if n := len(g.planRecords()); n != maxRecords {
		t.Errorf("%d records", n)
	}
	g.recorded(Recorded{Upto: g.last})
	if left := g.planRecords(); len(left) != 1 || !strings.Contains(left[0].Text, "were lost") {
		t.Errorf("%v", left)
	}
}

// TestBuckets: a burst of four, then one in 64 s.
func TestBuckets(t *testing.T) {
	g := at()
	s := poolServer("2001:db8:101::7")
	other := poolServer("2001:db8:101::8") // of the same /64
	for range bucketBurst {
		if g.allowed(s, 0) > g.now.Mono {
			t.Fatal("the burst is too short")
		}
		g.spend(s)
	}
	if wait := g.allowed(other, 0) - g.now.Mono; wait < 63*time.Second || wait > 65*time.Second {
		t.Errorf("the neighbour may be asked in %s", wait)
	}
	g.now.Mono += 64*time.Second + time.Millisecond
	if g.allowed(s, 0) > g.now.Mono {
		t.Error("no token after 64 s")
	}
	g.kiss(s, "RATE")
	g.spend(s)
	g.now.Mono += 65 * time.Second
	if wait := g.allowed(s, 0) - g.now.Mono; wait < 60*time.Second {
		t.Errorf("after RATE it may be asked in %s", wait)
	}
	g.kiss(s, "DENY")
	if wait := g.allowed(s, 0) - g.now.Mono; wait < 23*time.Hour {
		t.Errorf("after DENY it may be asked in %s", wait)
	}
}

// TestFactsOfThePreset: a frame depends on the host only where the preset needs it.
func TestFactsOfThePreset(t *testing.T) {
	g := at()
	g.host.OnLink, g.host.Gateways = []netip.Prefix{prefix("192.0.2.0/25")}, []netip.Addr{addr("fe80::1"), addr("198.51.100.1")}
	if f := g.planShield().Facts; len(f.Outside)+len(f.Own) > 0 {
		t.Errorf("the workstation needs %+v", f)
	}
	g.conf.Choices = rules.Choices{Hooks: rules.AtBoth, Learn: rules.FromForward}
	want := []netip.Prefix{prefix("192.0.2.0/24"), prefix("198.51.100.0/24"), prefix("2001:db8:1::/48")}
	if s := g.planShield(); !slices.Equal(s.Facts.Outside, []string{"eth0"}) || !slices.Equal(s.Facts.Own, want) || s.Hold != g.conf.Hold {
		t.Errorf("the router has %+v", s.Facts)
	}
	g.conf.Outside = []string{"ppp0"}
	if f := g.planShield().Facts; !slices.Equal(f.Outside, []string{"ppp0"}) {
		t.Errorf("outside is %v", f.Outside)
	}
}

// TestLists: what is the host's own is told with them, and status tells of each list
// whether it is in force, and why not.
func TestLists(t *testing.T) {
	g := at()
	if f := g.planShield().Facts; len(f.Near) > 0 {
		t.Errorf("without a list %v is near", f.Near)
	}
	throwAway := addr("2001:db8:9::a")
	g.addresses = []*address{{addr: throwAway, kind: "throw-away", phase: held}}
	g.host.Addrs = append(g.host.Addrs, throwAway)
	g.host.OnLink, g.host.Gateways, g.host.Resolvers = []netip.Prefix{prefix("192.0.2.0/25")}, []netip.Addr{addr("fe80::1")}, []netip.Addr{addr("2001:db8:53::53")}
	g.conf.Lists = []rules.List{{Name: "/a", Digest: [32]byte{1}, Lengths: []rules.Length{{Bits: 24, Prefixes: 5}, {Six: true, Bits: 48, Prefixes: 2}}}}
	want := []netip.Prefix{prefix("192.0.2.0/25"), prefix("2001:db8:1:1::55/128"), prefix("2001:db8:53::53/128")}
	if s := g.planShield(); !slices.Equal(s.Facts.Near, want) || !rules.SameLists(s.Lists, g.conf.Lists) {
		t.Errorf("near is %v, %d lists", s.Facts.Near, len(s.Lists))
	}
	see := func(lists []rules.List, err error, inForce bool, note string) {
		t.Helper()
		n := len(g.ledger.records)
		g.seeKernel(KernelSeen{Kernel: Kernel{Shield: rules.Shield{Mode: rules.Enforce, Lists: lists}}, ListErr: err})
		if got := g.shieldStatus().Lists; len(got) != 1 || got[0] != (ListStatus{"/a", 7, inForce}) {
			t.Errorf("status %+v", got)
		}
		said := ""
		for _, r := range g.ledger.records[n:] {
			said += r.Text
		}
		if said != note {
			t.Errorf("noted %q, want %q", said, note)
		}
		weak := slices.ContainsFunc(g.weaknesses(), func(w Weakness) bool { return w.Code == "lists" })
		if weak != (err != nil) || g.seenErr != nil {
			t.Errorf("weakness %v, shield %v", weak, g.seenErr)
		}
	}
	see(nil, nil, false, "")
	see(nil, errors.New("no file"), false, "no file")
	see(nil, errors.New("no file"), false, "")
	see(g.conf.Lists, nil, true, "7 prefixes of 1 lists are blocked")
	see(g.conf.Lists, nil, true, "")
	see(nil, nil, false, "no list of prefixes is blocked any more")
}

// TestOthersAreInTheStatus, as the kernel has counted them.
func TestOthersAreInTheStatus(t *testing.T) {
	g := at()
	if s := g.Status(g.now); s.Others == nil || len(s.Others) > 0 || s.OthersDropped != 0 {
		t.Errorf("%+v, %d", s.Others, s.OthersDropped)
	}
	g.seen.Shield.Others = rules.Others{Dropped: 9, Most: []rules.Other{{Prefix: prefix("198.51.100.0/24"), Dropped: 6}}}
	if s := g.Status(g.now); len(s.Others) != 1 || s.Others[0] != (OtherStatus{"198.51.100.0/24", 6}) || s.OthersDropped != 9 {
		t.Errorf("%+v, %d", s.Others, s.OthersDropped)
	}
}

// TestNameThatBringsNothing: status names what is written and not asked, why, and
// the key that would permit it.
func TestNameThatBringsNothing(t *testing.T) {
	g := at()
	g.conf.Servers = []Server{{Host: "good.example", Port: 123}, {Host: "inside.example", Port: 123}, {Host: "typo.example", Port: 123}}
	g.keepSources()
	for _, o := range g.sources {
		o.job = g.key()
	}
	good, inside, typo := g.sources[0], g.sources[1], g.sources[2]
	g.resolved(Resolved{Key: inside.job, Addrs: []netip.Addr{addr("10.0.0.1")}})
	g.resolved(Resolved{Key: typo.job, Err: errors.New("no such name")})
	said := func() (out []string) {
		for _, w := range g.weaknesses() {
			if w.Code == "unresolved" {
				out = append(out, w.Text)
			}
		}
		return out
	}
	if got := said(); got != nil {
		t.Errorf("beside the reason why nothing is known: %q", got)
	}
	g.resolved(Resolved{Key: good.job, Addrs: []netip.Addr{addr("203.0.113.7")}})
	g.servers = append(g.servers, &server{addr: netip.MustParseAddrPort("203.0.113.7:123"), name: "good.example", chosen: true})
	got := said()
	if len(got) != 2 || !strings.HasPrefix(got[0], "no server of inside.example is asked: ") || !strings.Contains(got[0], "time.allow_private") || got[1] != "no server of typo.example is asked: no such name" {
		t.Errorf("%q", got)
	}
	good.fail(g, "no answer in time") // it is asked all the same
	if again := said(); len(again) != 2 {
		t.Errorf("%q", again)
	}
}

// TestLessRoom: where the host got addresses of its own meanwhile, ours make room for
// the next ones at once, and not only when the next sync needs a slot.
func TestLessRoom(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.PollMax = c.PollMin })
	w.start(time.Hour)
	held := func() int { return len(w.plan.Kernel.Addrs) }
	if held() != 8 {
		t.Fatalf("%d addresses", held())
	}
	h := w.g.host
	h.LinkAddrs = slices.Clone(h.LinkAddrs)
	for next := addr("2001:db8:1:1::a0"); len(h.LinkAddrs) < 8; next = next.Next() {
		h.LinkAddrs = append(h.LinkAddrs, next)
	}
	w.step(HostSeen{h})
	if held() != 6 {
		t.Errorf("%d addresses beside %d others, of %d that the kernel takes", held(), len(h.LinkAddrs), h.MaxAddrs)
	}
}

// TestARenamedInterface is told by its name as it is.
func TestARenamedInterface(t *testing.T) {
	w := newIdeal(t, nil).start(time.Minute)
	h := w.g.host
	h.Link.Name = "lan0"
	w.step(HostSeen{h})
	for _, e := range w.g.Status(w.now).Exposures {
		if e.ExistsUntil != nil && e.Interface != "lan0" {
			t.Errorf("%s is on %s", e.Address, e.Interface)
		}
	}
}
