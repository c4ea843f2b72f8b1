package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/selection"
)

var liar = addr("2001:db8:101::1")

// lying has one server, wherever it is asked, be a minute off.
func lying(to netip.Addr, s *selection.Sample) {
	if to == liar {
		s.Offset += time.Minute
	}
}

func (w *ideal) places() (all []string) {
	for _, s := range w.g.Status(w.now).Servers {
		all = append(all, s.Address)
	}
	return all
}

// TestFalsetickerIsReplaced, when a majority was against it in three syncs in a
// row, and gets no place again for a day, though its pool goes on naming it.
func TestFalsetickerIsReplaced(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Servers, c.Pools = nil, []string{"p.example"} })
	w.tell = lying
	w.dns = map[string][]netip.Addr{"p.example": {liar, addr("2001:db8:102::1"), addr("2001:db8:103::1"), addr("2001:db8:104::1")}}
	w.start(30 * time.Minute)
	if !slices.Contains(w.places(), liar.String()) || w.asked[liar] < outvoted {
		t.Fatalf("without another to be had: %v, it was asked %d times", w.places(), w.asked[liar])
	}
	w.dns["p.example"] = append(w.dns["p.example"], addr("2001:db8:105::1"))
	asked := w.lookups
	w.run(2 * time.Hour)
	if slices.Contains(w.places(), liar.String()) || !slices.Contains(w.places(), "2001:db8:105::1") {
		t.Errorf("it keeps its place: %v", w.places())
	}
	if n := w.lookups - asked; n < 1 || n > 2 {
		t.Errorf("the pool was resolved %d times in two hours", n)
	}
	if !strings.Contains(strings.Join(w.notes, "\n"), "server 2001:db8:101::1 loses its place: a majority was against it in") {
		t.Errorf("the journal does not say why: %q", w.notes)
	}
	w.silent[addr("2001:db8:102::1")] = true
	w.run(6 * time.Hour)
	if slices.Contains(w.places(), liar.String()) {
		t.Errorf("it has a place again: %v", w.places())
	}
}

// TestConfiguredFalsetickerIsNamed once, and stays: it is the admin's choice.
func TestConfiguredFalsetickerIsNamed(t *testing.T) {
	w := newIdeal(t, nil)
	w.tell = lying
	w.start(4 * time.Hour)
	if !slices.Contains(w.places(), liar.String()) {
		t.Errorf("it lost its place: %v", w.places())
	}
	if n := strings.Count(strings.Join(w.notes, "\n"), "is wrong, or all others are"); n != 1 {
		t.Errorf("it was named %d times", n)
	}
	w.tell = nil
	w.run(2 * time.Hour)
	w.tell = lying
	w.run(4 * time.Hour)
	if n := strings.Count(strings.Join(w.notes, "\n"), "is wrong, or all others are"); n != 2 {
		t.Errorf("after it was right in between it was named %d times", n)
	}
}

// TestLostVoteBlamesNobody: where two are against two nobody is replaced.
func TestLostVoteBlamesNobody(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Servers, c.Pools, c.MinAgree = nil, []string{"p.example"}, 2 })
	w.tell = func(to netip.Addr, s *selection.Sample) {
		if to == liar || to == addr("2001:db8:102::1") {
			s.Offset += time.Minute
		}
	}
	four := []netip.Addr{liar, addr("2001:db8:102::1"), addr("2001:db8:103::1"), addr("2001:db8:104::1")}
	w.dns = map[string][]netip.Addr{"p.example": four}
	w.start(time.Minute)
	w.dns["p.example"] = append(four, addr("2001:db8:105::1"))
	before := w.places()
	w.run(30 * time.Minute)
	if !slices.Equal(w.places(), before) {
		t.Errorf("%v, before %v", w.places(), before)
	}
	w.wantSynced("two against two", false)
	if why := w.g.whyNotSynced(); !strings.Contains(why, "2001:db8:101::1, 2001:db8:102::1 against 2001:db8:103::1, 2001:db8:104::1") &&
		!strings.Contains(why, "2001:db8:103::1, 2001:db8:104::1 against 2001:db8:101::1, 2001:db8:102::1") {
		t.Errorf("the sides are not named: %q", why)
	}
}

// TestServersAtRest: whatever names lead to, and whoever denies, nobody's place
// goes to and fro without end. The world notices if it does.
func TestServersAtRest(t *testing.T) {
	one, two := addr("2001:db8:105::1"), addr("2001:db8:106::1")
	named := func(t *testing.T, names ...string) *ideal {
		w := newIdeal(t, func(c *Config) {
			for _, n := range names {
				c.Servers = append(c.Servers, Server{n, 123})
			}
		})
		w.dns = map[string][]netip.Addr{"one.example": {one, two}, "two.example": {one}}
		return w
	}
	t.Run("two names of one machine", func(t *testing.T) {
		w := named(t, "two.example", "one.example", "2001:db8:106::1")
		w.start(time.Hour)
		if w.asked[one] == 0 || w.asked[one] != w.asked[addr("2001:db8:101::1")] || len(w.g.chosenOnes()) != 6 {
			t.Errorf("asked %v, places %q", w.asked, w.places())
		}
		if !w.weak("one-machine") {
			t.Errorf("status does not say so: %+v", w.g.Status(w.now).Weaknesses)
		}
	})
	t.Run("both answers deny", func(t *testing.T) {
		w := named(t, "one.example")
		w.kiss[one], w.kiss[two] = "DENY", "DENY"
		w.start(23 * time.Hour)
		if w.asked[one] != 1 || w.asked[two] != 1 {
			t.Errorf("asked %v", w.asked)
		}
		delete(w.kiss, one)
		delete(w.kiss, two)
		if w.run(3 * time.Hour); w.asked[one]+w.asked[two] < 4 {
			t.Errorf("a day later: %v", w.asked)
		}
	})
	t.Run("no way to either", func(t *testing.T) {
		w := named(t, "one.example").start(time.Hour)
		host := w.g.host
		host.Source6, host.Prefix, host.Preferred = netip.Addr{}, netip.Prefix{}, nil
		w.step(HostSeen{host})
		w.run(time.Hour)
		host.Source6 = addr("2001:db8:1:1::55")
		before := w.asked[one]
		w.step(HostSeen{host})
		if w.run(time.Hour); w.asked[one] <= before {
			t.Errorf("it is not asked any more: %v", w.asked)
		}
	})
	t.Run("a host of time.nts", func(t *testing.T) {
		g := at()
		g.network.source6 = g.host.Source6
		s := g.keyedHost("one.example", "2001:db8:105::1", "2001:db8:106::1")
		s.denied = g.now.Mono + denyFor
		for g.choose() {
			if s = g.servers[len(g.servers)-1]; len(g.servers) > 2 {
				t.Fatalf("%d places were given", len(g.servers))
			}
			s.denied = g.now.Mono + denyFor
		}
		if !s.chosen || s.addr.Addr() != two {
			t.Errorf("it is asked at %s", s.addr)
		}
	})
}

// TestDenialsAreKept: of however many servers that deny, none is asked again within
// the day, nor after a restart.
func TestDenialsAreKept(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Servers, c.Pools = nil, []string{"p.example"} })
	w.dns = map[string][]netip.Addr{}
	for i := range maxCandidates {
		a := addr(fmt.Sprintf("2001:db8:%x::1", 0x100+i))
		w.dns["p.example"] = append(w.dns["p.example"], a)
		w.kiss[a] = "DENY"
	}
	w.start(23 * time.Hour)
	for a, n := range w.asked {
		if n != 1 {
			t.Errorf("%s was asked %d times", a, n)
		}
	}
	if len(w.asked) != maxCandidates {
		t.Errorf("%d were asked", len(w.asked))
	}
	g := at()
	for i := range 2 * maxCandidates {
		r := ServerRecord{Addr: netip.AddrPortFrom(addr(fmt.Sprintf("2001:db8:%x::1", 0x100+i)), 123)}
		if i >= maxCandidates {
			r.DeniedUntil = g.now.Wall.Add(time.Hour)
		}
		g.restoreServer(r)
	}
	if len(g.servers) != maxServers+maxCandidates {
		t.Errorf("after a restart %d servers are remembered", len(g.servers))
	}
}

// TestServersAreBounded: whatever they set limits to.
func TestServersAreBounded(t *testing.T) {
	g := at()
	for i := range 4 * maxLimited {
		a := netip.AddrPortFrom(addr(fmt.Sprintf("2001:db8:%x::1", i)), 123)
		g.seat(a, "p.example", "p.example", "", nil)
		s := g.server(a)
		if g.bucket(a.Addr()).tokens--; i%2 == 0 {
			s.rate = 1
		}
		s.chosen = i == 3
	}
	if n := len(g.servers); n > maxServers+maxLimited+2 || !g.servers[0].chosen {
		t.Errorf("%d servers are remembered, the first is %+v", n, g.servers[0])
	}
}

// TestServersBehindNAT64: each is as far from the others as its IPv4 address is, not
// one machine of one /64.
func TestServersBehindNAT64(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Servers, c.Pools = nil, []string{"p.example"} })
	w.dns = map[string][]netip.Addr{"p.example": {
		addr("64:ff9b::203.0.113.1"), addr("64:ff9b::203.0.113.2"), addr("64:ff9b::198.51.100.1"), addr("64:ff9b::192.0.3.1"), addr("64:ff9b::192.88.98.1"),
	}}
	host := w.g.host
	host.Source4 = netip.Addr{}
	w.step(HostSeen{host})
	w.start(time.Hour)
	w.wantSynced("by NAT64 alone", true)
	if all := w.places(); len(all) != 4 {
		t.Errorf("places: %q", all)
	}
}

// TestWhoWasSilentHasAnotherChance, a day later, where nobody else is to be had.
func TestWhoWasSilentHasAnotherChance(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Servers, c.Pools = nil, []string{"p.example"} })
	all := []netip.Addr{addr("2001:db8:101::1"), addr("2001:db8:102::1"), addr("2001:db8:103::1"), addr("2001:db8:104::1"), addr("2001:db8:105::1")}
	w.dns = map[string][]netip.Addr{"p.example": all}
	w.start(time.Hour)
	first, second := w.g.chosenOnes()[0].addr.Addr(), w.g.chosenOnes()[1].addr.Addr()
	seated := func(a netip.Addr) bool {
		return slices.ContainsFunc(w.g.chosenOnes(), func(s *server) bool { return s.addr.Addr() == a })
	}
	w.silent[first] = true
	if w.run(12 * time.Hour); seated(first) {
		t.Fatalf("it keeps its place: %q", w.places())
	}
	w.silent[first], w.silent[second] = false, true
	if w.run(48 * time.Hour); !seated(first) || seated(second) {
		t.Errorf("places: %q", w.places())
	}
}
