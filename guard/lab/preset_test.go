package lab_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/ipaddr"
	"ntpveil/guard/lab"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

// facing is a host with services and the rules of a preset, which a daemon would
// put up, or nobody has to.
func facing(t *testing.T, preset string, change func(s *rules.Shield, tg *target)) *target {
	t.Helper()
	l := lab.ForTest(t, lab.Options{})
	tg := &target{T: t, lab: l}
	tg.must(l.Host.Serve([]uint16{22, 80}, []uint16{53}))
	tg.must(l.Host.Sysctl("ipv6/icmp/ratelimit", "0")) // silence must come from the rules alone
	tg.must(l.Host.Sysctl("ipv4/icmp_ratelimit", "0"))
	all, errs := rules.ReadPresets(nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	p := all[preset]
	facts, err := ipaddr.Look(ipaddr.Options{NS: l.Host.FD(), ResolvConf: []string{}}, "")
	tg.must(err)
	tg.shield = p.Shield(rules.Facts{Outside: []string{"eth0"}, Users: []rules.User{{Name: "root"}}, Own: p.Choices.Own(facts.OwnPrefixes())})
	tg.shield.Devices = facts.Devices
	if change != nil {
		change(&tg.shield, tg)
	}
	tg.table, err = nft.Open(l.Host.FD())
	tg.must(err)
	t.Cleanup(func() { _ = tg.table.Close() })
	tg.must(tg.table.Grow(sysclock.Mono(), tg.shield))
	return tg
}

// everything is what a host without rules shows: what listens is open, a minus
// stands behind what refuses.
const everything = "22 80 443- 53 161-"

// reached is what somebody finds of all that is tried.
func (tg *target) reached(from *lab.Node, to netip.Addr) string {
	tg.Helper()
	r := tg.scan(from, lab.Scan{Target: to, TCP: []uint16{22, 80, 443}, UDP: []uint16{53, 161}})
	var out []string
	for _, f := range r.Found {
		mark := map[lab.State]string{lab.Open: "", lab.Closed: "-", lab.Unreachable: "!"}
		if m, answered := mark[f.State]; answered {
			out = append(out, fmt.Sprintf("%d%s", f.Port, m))
		}
	}
	return strings.Join(out, " ")
}

// walk compares what the harvester and an honest visitor find of the host, by
// either family.
func (tg *target) walk(when, harvester, visitor string) {
	tg.Helper()
	for _, to := range []netip.Addr{tg.lab.Host.Addr6, tg.lab.Host.Addr4} {
		if got := tg.reached(tg.lab.Harvester.Node, to); got != harvester {
			tg.Errorf("%s, %s, from the harvester: %q, want %q", when, to, got, harvester)
		}
		if got := tg.reached(tg.lab.Visitor, to); got != visitor {
			tg.Errorf("%s, %s, from an honest visitor: %q, want %q", when, to, got, visitor)
		}
	}
}

// hoods are the harvester's neighbourhoods, closed until a time.
func (tg *target) hoods(until time.Duration) []rules.Hood {
	l := tg.lab
	return []rules.Hood{
		{Prefix: netip.PrefixFrom(l.Harvester.Addr4, 24).Masked(), Server: l.Harvester.Addr4, Until: until},
		{Prefix: netip.PrefixFrom(l.Harvester.Addr6, 48).Masked(), Server: l.Harvester.Addr6, Until: until},
	}
}

// ask sends an NTP query from a node to a server's port 123, and returns what
// came back within two seconds.
func (tg *target) ask(from *lab.Node, to netip.Addr) bool {
	tg.Helper()
	ctx, cancel := context.WithTimeout(tg.Context(), 5*time.Second)
	defer cancel()
	c, err := from.Dial(ctx, "udp", netip.AddrPortFrom(to, 123).String())
	tg.must(err)
	defer c.Close()
	return answered(c)
}

func answered(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write(lab.NTP{Version: 4, Mode: 3, Transmit: 1}.Bytes()); err != nil {
		return false
	}
	n, err := c.Read(make([]byte, 128))
	return err == nil && n >= 48
}

// TestPresetTables walks who reaches what under each preset that a daemon keeps:
// before, during and after a sync with the harvester, and after the neighbourhood
// ran out.
func TestPresetTables(t *testing.T) {
	t.Parallel()
	for preset, want := range map[string]struct{ before, closed string }{
		"workstation": {everything, "22"},
		"server":      {everything, "22 80 53"},
		"router":      {everything, "22"},
		"observe":     {everything, everything},
		"lockdown":    {"22", "22"},
	} {
		t.Run(preset, func(t *testing.T) {
			t.Parallel()
			tg := facing(t, preset, nil)
			tg.walk("before", want.before, want.before)
			tg.shield.Hoods = tg.hoods(sysclock.Mono() + time.Hour)
			tg.must(tg.table.Grow(sysclock.Mono(), tg.shield))
			for _, server := range []netip.Addr{tg.lab.Harvester.Addr6, tg.lab.Harvester.Addr4} {
				if !tg.ask(tg.lab.Host, server) {
					t.Errorf("during the sync %s does not answer the host", server)
				}
			}
			tg.walk("after the sync", want.closed, want.before)
			tg.must(tg.table.Shrink(sysclock.Mono(), rules.Shield{}))
			tg.shield.Hoods = tg.hoods(sysclock.Mono() + 100*time.Millisecond)
			tg.must(tg.table.Grow(sysclock.Mono(), tg.shield))
			tg.await("the neighbourhoods to run out", func() bool {
				seen, err := tg.table.Seen(sysclock.Mono())
				return err == nil && len(seen.Hoods) == 0 && seen.Mode == tg.shield.Mode
			})
			tg.walk("after they ran out", want.before, want.before)
		})
	}
}

// TestObserveCountsWhatItWouldDrop, by neighbourhood.
func TestObserveCountsWhatItWouldDrop(t *testing.T) {
	t.Parallel()
	tg := facing(t, "observe", nil)
	tg.shield.Hoods = tg.hoods(sysclock.Mono() + time.Hour)
	tg.must(tg.table.Grow(sysclock.Mono(), tg.shield))
	tg.walk("observed", everything, everything)
	seen, err := tg.table.Seen(sysclock.Mono())
	tg.must(err)
	for _, h := range seen.Hoods { // all but tcp/22, which is allowed
		if h.Dropped != 4 {
			t.Errorf("%s: %d counted, want 4", h.Prefix, h.Dropped)
		}
	}
}

// TestServerFollowsItsServices: what begins to listen is reachable at once, what
// ends is silent at once, and nobody has to tell.
func TestServerFollowsItsServices(t *testing.T) {
	t.Parallel()
	tg := facing(t, "server", nil)
	tg.shield.Hoods = tg.hoods(sysclock.Mono() + time.Hour)
	tg.must(tg.table.Grow(sysclock.Mono(), tg.shield))
	var late net.Listener
	tg.must(tg.lab.Host.Do(func() (err error) {
		late, err = net.Listen("tcp", "[::]:443")
		return err
	}))
	tg.walk("after a service has begun", "22 80 443 53", "22 80 443 53 161-")
	late.Close()
	tg.walk("after it has ended", "22 80 53", everything)
}

// TestPresetKeys walks what the language has beyond the built-in presets.
func TestPresetKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name               string
		change             func(s *rules.Shield, tg *target)
		harvester, visitor string
	}{
		{"reject", func(s *rules.Shield, _ *target) { s.Choices.Reject = true }, "22 80- 443- 53! 161!", everything},
		{"ranges and devices", func(s *rules.Shield, _ *target) {
			s.Allow = []rules.Service{{Proto: "tcp", Port: 79, Last: 81}, {Proto: "udp", Port: 53, Device: "eth0"}, {Proto: "tcp", Port: 22, Device: "eth1"}}
		}, "80 53", everything},
		{"trusted", func(s *rules.Shield, tg *target) {
			s.Trusted = []netip.Prefix{netip.PrefixFrom(tg.lab.Harvester.Addr6, 128), netip.PrefixFrom(tg.lab.Harvester.Addr4, 32)}
		}, everything, everything},
		{"a perimeter that answers", func(s *rules.Shield, _ *target) { s.Choices.Everyone, s.Choices.Reject = true, true }, "22 80- 443- 53! 161!", "22 80- 443- 53! 161!"},
		{"wider neighbourhoods", func(s *rules.Shield, tg *target) {
			s.Choices.Hood4, s.Choices.Hood6 = 16, 32
			s.Hoods = []rules.Hood{{Prefix: netip.PrefixFrom(tg.lab.Harvester.Addr4, 16).Masked(), Until: sysclock.Mono() + time.Hour},
				{Prefix: netip.PrefixFrom(tg.lab.Harvester.Addr6, 32).Masked(), Until: sysclock.Mono() + time.Hour}}
		}, "22", "22"}, // the visitor lives in there, too
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tg := facing(t, "workstation", func(s *rules.Shield, tg *target) {
				s.Hoods = tg.hoods(sysclock.Mono() + time.Hour)
				tt.change(s, tg)
			})
			tg.walk(tt.name, tt.harvester, tt.visitor)
		})
	}
}

// TestLeaf: to port 123 of a host that serves nobody comes nothing but the answers
// that it asked for, even from the server that it asked.
func TestLeaf(t *testing.T) {
	t.Parallel()
	tg := facing(t, "workstation", func(s *rules.Shield, _ *target) { s.Choices.Leaf = true })
	l := tg.lab
	for _, family := range []struct{ our, server netip.Addr }{{l.Host.Addr6, l.Harvester.Addr6}, {l.Host.Addr4, l.Harvester.Addr4}} {
		var c *net.UDPConn
		tg.must(l.Host.Do(func() (err error) {
			c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(family.our, 123)))
			return err
		}))
		defer c.Close()
		var server *net.UDPConn
		tg.must(l.Visitor.Do(func() (err error) {
			server, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(family.our, 123)))
			return err
		}))
		defer server.Close()
		there := server.LocalAddr().(*net.UDPAddr).AddrPort()
		packet := func(mode uint8) []byte { return lab.NTP{Version: 4, Mode: mode}.Bytes() }
		send := func(mode uint8) {
			_, err := server.Write(packet(mode))
			tg.must(err)
		}
		send(4) // nobody asked
		send(3)
		_, err := c.WriteToUDPAddrPort(packet(3), there)
		tg.must(err)
		_ = server.SetReadDeadline(time.Now().Add(3 * time.Second))
		_, err = server.Read(make([]byte, 64))
		tg.must(err) // the question is there: conntrack knows the exchange
		for _, mode := range []uint8{6, 7, 3, 1, 4} {
			send(mode)
		}
		var modes []uint8
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		for b := make([]byte, 64); !slices.Contains(modes, 4); {
			if _, _, err := c.ReadFromUDPAddrPort(b); err != nil {
				t.Errorf("%s: no answer: %v", family.our, err)
				break
			}
			modes = append(modes, b[0]&7)
		}
		if !slices.Equal(modes, []uint8{4}) {
			t.Errorf("%s: modes %v came through, want the answer alone", family.our, modes)
		}
	}
}
