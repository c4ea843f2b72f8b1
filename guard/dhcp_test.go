package guard

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/selection"
)

var networks = []netip.Addr{addr("192.168.7.1"), addr("fd00::123"), addr("192.168.7.2")}

// named is a world with four pool servers, whose network names time servers too.
func named(t *testing.T, dhcp string, servers ...netip.Addr) *ideal {
	w := newIdeal(t, func(c *Config) { c.Servers, c.Pools, c.DHCP = nil, []string{"p.example"}, dhcp })
	w.dns = map[string][]netip.Addr{"p.example": {}}
	for _, s := range fourServers {
		w.dns["p.example"] = append(w.dns["p.example"], addr(s.Host))
	}
	w.names(servers...)
	return w
}

func (w *ideal) names(servers ...netip.Addr) {
	host := w.g.host
	host.NTP = servers
	w.step(HostSeen{host})
}

func (w *ideal) poolSilent(which ...Server) {
	for _, s := range which {
		w.silent[addr(s.Host)] = true
	}
}

func (w *ideal) weak(code string) bool {
	return slices.ContainsFunc(w.g.Status(w.now).Weaknesses, func(x Weakness) bool { return x.Code == code })
}

// line is the line of a server in the status.
func (w *ideal) line(a netip.Addr) ServerStatus {
	for _, s := range w.g.Status(w.now).Servers {
		if s.Address == a.String() {
			return s
		}
	}
	return ServerStatus{State: "not there"}
}

// TestNetworkJoins: a private server that the network names votes with the others,
// has no neighbourhood, and goes when it is named no more.
func TestNetworkJoins(t *testing.T) {
	w := named(t, "join", networks[0])
	w.start(10 * time.Minute)
	if l := w.line(networks[0]); l.State != "selected" || l.Name != "dhcp" || l.Pool != "" {
		t.Errorf("%+v", l)
	}
	if w.weak("dhcp-alone") || len(w.g.planHoods()) != 4 {
		t.Errorf("%d neighbourhoods", len(w.g.planHoods()))
	}
	w.tell = func(to netip.Addr, s *selection.Sample) {
		if to == networks[0] {
			s.Offset += time.Minute
		}
	}
	w.run(4 * time.Hour)
	if l := w.line(networks[0]); l.State != "falseticker" {
		t.Errorf("it lies: %+v", l)
	}
	w.names()
	if l := w.line(networks[0]); l.State != "not there" {
		t.Errorf("it is named no more: %+v", l)
	}
	w.wantSynced("without it", true)
}

// TestNetworkAlone: where no other answers, and only there, is it believed alone;
// status says so.
func TestNetworkAlone(t *testing.T) {
	w := named(t, "join", networks[0])
	w.poolSilent(fourServers...)
	w.stepped(-time.Minute)
	w.start(time.Minute)
	w.wantSynced("alone", true)
	if !w.weak("dhcp-alone") {
		t.Error("status does not say that it is believed alone")
	}
	clear(w.silent)
	w.run(time.Hour)
	if w.weak("dhcp-alone") || w.line(networks[0]).State != "selected" {
		t.Errorf("the others answer, and still: %+v", w.line(networks[0]))
	}
	w.poolSilent(fourServers...) // for a while
	w.tell = func(_ netip.Addr, s *selection.Sample) { s.Offset += time.Second / 4 }
	asked := w.asked[networks[0]]
	for i := 0; w.asked[networks[0]] < asked+reachLost-1; i++ {
		if w.run(time.Second); i > 24*3600 {
			t.Fatal("it is not asked any more")
		}
	}
	if w.truth.Abs() > time.Millisecond {
		t.Errorf("others answered a while ago, and it moved the clock by %s", w.truth)
	}
	w.run(24 * time.Hour)
	if w.truth.Abs() < time.Second/8 {
		t.Error("the others are gone for a day, and it is not believed")
	}
}

// TestNetworkDoesNotOutvote the one that others chose, however many it names.
func TestNetworkDoesNotOutvote(t *testing.T) {
	w := named(t, "join", networks...)
	w.poolSilent(fourServers[1:]...)
	w.tell = func(to netip.Addr, s *selection.Sample) {
		if slices.Contains(networks, to) {
			s.Offset += time.Minute
		}
	}
	w.start(time.Hour)
	w.wantSynced("three of the network's against one", false)
	if why := w.g.whyNotSynced(); w.truth != 0 || !strings.Contains(why, "only servers that the network names agree (192.168.7.1, fd00::123, 192.168.7.2)") {
		t.Errorf("the clock is off by %s: %q", w.truth, why)
	}
	w.tell = nil
	w.run(time.Hour)
	w.wantSynced("they agree with it", true)
}

// TestNetworkIsEnough where nothing else is configured: of more than one, more
// than one must agree.
func TestNetworkIsEnough(t *testing.T) {
	for n := 1; n <= 3; n++ {
		w := newIdeal(t, func(c *Config) { c.Servers, c.DHCP = nil, "join" })
		w.names(networks[:n]...)
		w.start(5 * time.Minute)
		w.wantSynced("nothing else is configured", true)
		if got := w.g.enough(); got != n {
			t.Errorf("%d of %d must agree", got, n)
		}
	}
}

// TestNetworkIsSifted: what cannot be a server is none, and there is a bound.
func TestNetworkIsSifted(t *testing.T) {
	w := named(t, "join", addr("127.0.0.1"), addr("fe80::1"), addr("ff02::101"), addr("2001:db8:1:1::55"), addr("::ffff:192.168.7.1"), addr("192.168.7.1"))
	w.start(0)
	if got := w.g.wantNetwork(); len(got) != 1 || got[0].Addr() != networks[0] {
		t.Errorf("%v", got)
	}
	w.names(addr("10.0.0.1"), addr("10.0.0.2"), addr("10.0.0.3"), addr("10.0.0.4"), addr("10.0.0.5"), addr("10.0.0.6"))
	if got := w.g.wantNetwork(); len(got) != maxNetwork {
		t.Errorf("%d of them", len(got))
	}
	off := named(t, "off", networks...)
	off.start(10 * time.Minute)
	if off.asked[networks[0]] != 0 || off.line(networks[0]).State != "not there" {
		t.Errorf("time.dhcp is off, and it was asked %d times", off.asked[networks[0]])
	}
}
