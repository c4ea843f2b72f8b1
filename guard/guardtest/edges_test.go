package guardtest

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/selection"
)

var since = time.Now()

func sinceStart() time.Duration { return time.Since(since) }

func TestAskerModelConforms(t *testing.T) {
	honest, kissing, silent := netip.MustParseAddrPort("[2001:db8:1::1]:123"), netip.MustParseAddrPort("[2001:db8:2::1]:123"), netip.MustParseAddrPort("[2001:db8:3::1]:123")
	ConformAsker(t, func(t *testing.T) AskerBench {
		m := &Asker{Now: sinceStart, Servers: map[netip.AddrPort]guard.Answered{
			honest: {Sample: selection.Sample{Stratum: 2, Delay: time.Millisecond}}, kissing: {Kiss: "RATE"}}}
		t.Cleanup(func() {
			if text := m.String(); text != "" {
				t.Errorf("left open: %s", text)
			}
		})
		var port atomic.Uint32
		from := func() netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("2001:db8::1"), uint16(40000+port.Add(1)))
		}
		return AskerBench{Asker: m, Now: sinceStart, From: from, Honest: honest, Kissing: kissing, Silent: silent}
	})
}

func TestResolverModelConforms(t *testing.T) {
	ConformResolver(t, func(*testing.T) ResolverBench {
		m := &Resolver{Now: sinceStart, Names: map[string][]netip.Addr{
			"name.example.": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")}, "silent.example.": nil}}
		return ResolverBench{Resolver: m, Now: sinceStart, Name: "name.example.", Missing: "missing.example.", Silent: "silent.example."}
	})
}

func TestClockModelConforms(t *testing.T) {
	ConformClock(t, func(*testing.T) ClockBench {
		m := &Clock{Wall: ClockNoon, Floor: ClockFloor, Error: 16 * time.Second}
		return ClockBench{Clock: m, Text: m.String}
	})
}

func TestClockModelSaves(t *testing.T) {
	ConformSave(t, func(_ *testing.T, ahead *time.Duration) SaveBench {
		m := &Clock{Wall: ClockNoon}
		if ahead != nil {
			m.Saved = m.Wall.Add(*ahead)
		}
		return SaveBench{Clock: m, Now: func() time.Time { return m.Wall }, Told: func() bool { return m.Told }}
	})
}

func TestEdgeModelsPrint(t *testing.T) {
	m := &Resolver{Names: map[string][]netip.Addr{"b.example.": nil, "a.example.": {netip.MustParseAddr("192.0.2.1")}}}
	if got, want := m.String(), "a.example. [192.0.2.1]\nb.example. []\n"; got != want {
		t.Errorf("%s", got)
	}
	a := &Asker{}
	if err := a.bind(netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("192.0.2.2:123")); err != nil {
		t.Fatal(err)
	}
	if got, want := a.String(), "socket 192.0.2.1:40000 to 192.0.2.2:123\n"; got != want {
		t.Errorf("%s", got)
	}
}

func TestKeyerModel(t *testing.T) {
	honest, silent := netip.MustParseAddrPort("192.0.2.1:4460"), netip.MustParseAddrPort("192.0.2.2:4460")
	ConformKeyer(t, func(*testing.T) KeyerBench {
		m := &Keyer{Now: sinceStart, Hosts: map[netip.AddrPort]guard.Keyed{honest: {
			Keys: guard.NTSKeys{AEAD: 15, ToServer: make(guard.Secret, 32), ToClient: make(guard.Secret, 32), NotAfter: time.Now().Add(time.Hour)},
			Port: 123, Cookies: []guard.Secret{make(guard.Secret, 100)},
		}}}
		return KeyerBench{Keyer: m, Now: sinceStart, From: func() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.9:40000") },
			Name: "nts.example", Honest: honest, Silent: silent}
	})
}
