package lab_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/ipaddr"
	"ntpveil/guard/lab"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

// target is a host with a throw-away address under a shield that a test puts up
// by hand: what is attacked.
type target struct {
	*testing.T
	lab    *lab.Lab
	table  *nft.Shield
	stack  *ipaddr.Stack
	shield rules.Shield
	away   netip.Addr
}

// guarded builds a lab whose host has services, and a throw-away address that
// the harvester was shown. change may alter the shield before it is put up.
func guarded(t *testing.T, change func(s *rules.Shield, tg *target)) *target {
	t.Helper()
	l := lab.ForTest(t, lab.Options{})
	tg := &target{T: t, lab: l}
	tg.must(l.Host.Serve([]uint16{22, 80}, []uint16{53}))
	tg.must(l.Host.Sysctl("ipv6/icmp/ratelimit", "0")) // silence must come from the guard alone
	var err error
	tg.table, err = nft.Open(l.Host.FD())
	tg.must(err)
	t.Cleanup(func() { _ = tg.table.Close() })
	tg.stack, err = ipaddr.Open(ipaddr.Options{NS: l.Host.FD()})
	tg.must(err)
	t.Cleanup(func() { _ = tg.stack.Close() })
	b := l.Host.Addr6.As16()
	b[8], b[15] = 0xa7, 0x7a
	tg.away = netip.AddrFrom16(b)
	now := sysclock.Mono()
	tg.shield = rules.Shield{
		Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"}, Allow: []rules.Service{{Proto: "tcp", Port: 22}},
		Exposed: []rules.Exposed{{Addr: tg.away, Until: now + time.Hour}},
		Hoods: []rules.Hood{
			{Prefix: netip.PrefixFrom(l.Harvester.Addr4, 24).Masked(), Server: l.Harvester.Addr4, Until: now + time.Hour},
			{Prefix: netip.PrefixFrom(l.Harvester.Addr6, 48).Masked(), Server: l.Harvester.Addr6, Until: now + time.Hour},
		},
	}
	if change != nil {
		change(&tg.shield, tg)
	}
	tg.must(tg.table.Grow(now, tg.shield))
	tg.hold()
	return tg
}

// hold makes the throw-away address and waits until it may be used.
func (tg *target) hold() {
	tg.Helper()
	now := sysclock.Mono()
	tg.must(tg.stack.Set(now, []guard.Addr{{Addr: tg.away, Link: tg.lab.Host.Link.Index, Until: now + time.Hour, Meet: netip.MustParseAddr("fe80::1")}}))
	ctx, cancel := context.WithTimeout(tg.Context(), 10*time.Second)
	defer cancel()
	err := tg.stack.Watch(ctx, func() {
		if _, ready, err := tg.stack.Seen(sysclock.Mono()); err == nil && slices.Contains(ready, tg.away) {
			cancel()
		}
	})
	if ctx.Err() == context.DeadlineExceeded {
		tg.Fatalf("the throw-away address is not ready: %v", err)
	}
}

func (tg *target) must(err error) {
	tg.Helper()
	if err != nil {
		tg.Fatal(err)
	}
}

func (tg *target) scan(from *lab.Node, s lab.Scan) lab.Report {
	tg.Helper()
	if s.TCP == nil {
		s.TCP, s.UDP, s.Echo = []uint16{22, 80, 443}, []uint16{53, 123}, true
	}
	r, err := from.Scan(tg.Context(), s)
	tg.must(err)
	return r
}

// run runs a program on the host.
func (tg *target) run(stdin string, name string, args ...string) {
	tg.Helper()
	cmd := tg.lab.Host.Command(tg.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		tg.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func services(fs []lab.Found) []string {
	var out []string
	for _, f := range fs {
		if f.State == lab.Open {
			out = append(out, strings.Fields(f.String())[0])
		}
	}
	return out
}

func (tg *target) wantOpen(what string, r lab.Report, want ...string) {
	tg.Helper()
	if got := services(r.Found); !slices.Equal(got, want) {
		tg.Errorf("%s: open %v, want %v\n%s", what, got, want, r)
	}
}

func (tg *target) wantQuiet(what string, r lab.Report) {
	tg.Helper()
	if !r.Quiet() {
		tg.Errorf("%s was answered:\n%s", what, r)
	}
}

// TestScansOfTheThrowAway: whoever is told the address, from whatever port, gets
// nothing; not even a port that is published from elsewhere.
func TestScansOfTheThrowAway(t *testing.T) {
	t.Parallel()
	tg := guarded(t, func(s *rules.Shield, tg *target) {
		s.Solicited = []rules.Solicited{{Server: netip.AddrPortFrom(tg.lab.Harvester.Addr6, 123), Our: netip.AddrPortFrom(tg.away, 40123), Until: sysclock.Mono() + time.Hour}}
	})
	l := tg.lab
	tg.must(l.Host.Sysctl("ipv6/conf/all/accept_ra", "2"))
	tg.must(l.Host.Sysctl("ipv6/conf/eth0/accept_ra", "2"))
	tg.must(l.Host.Sysctl("ipv6/conf/all/forwarding", "1"))
	tg.must(l.Visitor.Serve([]uint16{80}, nil))
	tg.run(`table inet published {
		chain prerouting { type nat hook prerouting priority -100; meta nfproto ipv6 tcp dport 8443 dnat ip6 to [`+l.Visitor.Addr6.String()+`]:80; tcp dport 8081 redirect to :80; }
		chain postrouting { type nat hook postrouting priority 100; meta nfproto ipv6 ip6 daddr `+l.Visitor.Addr6.String()+` masquerade; }
	}`, "nft", "-f", "-")
	ports := lab.Scan{TCP: []uint16{22, 80, 443, 8081, 8443}, UDP: []uint16{53, 123, 40123}, Echo: true}

	ports.Target = l.Host.Addr6
	tg.wantOpen("the stable address, from a scanner", tg.scan(l.Scanner, ports), "tcp/22", "tcp/80", "tcp/8081", "tcp/8443", "udp/53", "echo")
	ports.Target = tg.away
	tg.wantQuiet("the throw-away address, from a scanner", tg.scan(l.Scanner, ports))
	tg.wantQuiet("the throw-away address, from the harvester", tg.scan(l.Harvester.Node, ports))
	ports.From = 123
	ports.UDP = []uint16{53, 161}
	tg.wantQuiet("the throw-away address, from the harvester's port 123", tg.scan(l.Harvester.Node, ports))
	ports.From = 547
	tg.wantQuiet("the throw-away address, from port 547", tg.scan(l.Scanner, ports))
}

// TestNeighbourhood: the harvester's neighbourhood opens nothing but shield.allow
// towards the stable address; everybody else, and the host itself, is not touched.
func TestNeighbourhood(t *testing.T) {
	t.Parallel()
	tg := guarded(t, nil)
	l := tg.lab
	tg.must(l.Harvester.Serve([]uint16{8000}, nil))
	for _, family := range []struct {
		stable, other netip.Addr
		echo          bool
	}{{l.Host.Addr6, l.Harvester.Addr6, true}, {l.Host.Addr4, l.Harvester.Addr4, false}} {
		s := lab.Scan{Target: family.stable, TCP: []uint16{22, 80}, UDP: []uint16{53}}
		tg.wantOpen("the stable address, from the closed neighbourhood", tg.scan(l.Harvester.Node, s), "tcp/22")
		s.From = 123
		tg.wantOpen("the same, from port 123", tg.scan(l.Harvester.Node, lab.Scan{Target: family.stable, TCP: []uint16{80}, UDP: []uint16{53}, From: 123}))
		s.From = 0
		tg.wantOpen("the stable address, from an honest visitor", tg.scan(l.Visitor, s), "tcp/22", "tcp/80", "udp/53")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := l.Host.Dial(ctx, "tcp", netip.AddrPortFrom(family.other, 8000).String())
		cancel()
		if err != nil {
			t.Errorf("the host cannot connect into the closed neighbourhood: %v", err)
			continue
		}
		speak(t, c)
	}
}

// speak has the other end echo a word.
func speak(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("word")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 4)
	if _, err := c.Read(b); err != nil || string(b) != "word" {
		t.Errorf("the answer is %q, %v", b, err)
	}
}

// TestPublishedPorts: what the host publishes from a container is a service of
// its own address, though its packets are forwarded; shield.allow means the port
// that is published.
func TestPublishedPorts(t *testing.T) {
	t.Parallel()
	tg := guarded(t, func(s *rules.Shield, _ *target) { s.Allow = append(s.Allow, rules.Service{Proto: "tcp", Port: 8444}) })
	l := tg.lab
	for _, sysctl := range []string{"ipv6/conf/eth0/accept_ra=2", "ipv6/conf/all/forwarding=1", "ipv4/ip_forward=1"} {
		key, value, _ := strings.Cut(sysctl, "=")
		tg.must(l.Host.Sysctl(key, value))
	}
	tg.must(l.Visitor.Serve([]uint16{80, 443}, nil))
	tg.run(`table inet published {
		chain prerouting { type nat hook prerouting priority -100;
			meta nfproto ipv6 tcp dport 8443 dnat ip6 to [`+l.Visitor.Addr6.String()+`]:80; meta nfproto ipv6 tcp dport 8444 dnat ip6 to [`+l.Visitor.Addr6.String()+`]:443;
			meta nfproto ipv4 tcp dport 8443 dnat ip to `+l.Visitor.Addr4.String()+`:80; meta nfproto ipv4 tcp dport 8444 dnat ip to `+l.Visitor.Addr4.String()+`:443; }
		chain postrouting { type nat hook postrouting priority 100; masquerade; }
	}`, "nft", "-f", "-")
	for _, stable := range []netip.Addr{l.Host.Addr6, l.Host.Addr4} {
		s := lab.Scan{Target: stable, TCP: []uint16{8443, 8444}}
		tg.wantOpen("published ports, from an honest scanner", tg.scan(l.Scanner, s), "tcp/8443", "tcp/8444")
		tg.wantOpen("published ports, from the closed neighbourhood", tg.scan(l.Harvester.Node, s), "tcp/8444")
	}
}

// TestSessionsOutliveTheClosing: what was open before stays open.
func TestSessionsOutliveTheClosing(t *testing.T) {
	t.Parallel()
	var hoods []rules.Hood
	tg := guarded(t, func(s *rules.Shield, _ *target) { hoods, s.Hoods = s.Hoods, nil })
	tg.must(tg.lab.Harvester.Serve([]uint16{8000}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	out, err := tg.lab.Host.Dial(ctx, "tcp", netip.AddrPortFrom(tg.lab.Harvester.Addr6, 8000).String())
	tg.must(err)
	in, err := tg.lab.Harvester.Dial(ctx, "tcp", netip.AddrPortFrom(tg.lab.Host.Addr6, 80).String())
	tg.must(err)
	tg.shield.Hoods = hoods
	tg.must(tg.table.Grow(sysclock.Mono(), tg.shield))
	speak(t, out)
	speak(t, in)
	tg.wantOpen("a new connection", tg.scan(tg.lab.Harvester.Node, lab.Scan{Target: tg.lab.Host.Addr6, TCP: []uint16{80}}))
}

// TestWhatMustPass: to the stable address, out of a closed neighbourhood too.
func TestWhatMustPass(t *testing.T) {
	t.Parallel()
	tg := guarded(t, nil)
	l := tg.lab
	host, router := l.Host, l.Host.Link.Peer

	tg.run("", "ip", "neigh", "flush", "all") // neighbour discovery with a cold cache
	tg.wantOpen("a visitor after the cache was emptied", tg.scan(l.Visitor, lab.Scan{Target: host.Addr6, TCP: []uint16{80}}), "tcp/80")

	var client net.PacketConn // one: what runs beside us may hold a closed one for a moment, between fork and exec
	tg.must(host.Do(func() (err error) {
		client, err = net.ListenPacket("udp6", netip.AddrPortFrom(host.Addr6, 546).String())
		return err
	}))
	defer client.Close()
	for name, packet := range map[string][]byte{
		"DHCPv6 reply, link-local": lab.Forge(netip.MustParseAddr("fe80::1"), host.Addr6, lab.UDP(547, 546, []byte("reply"))),
		"DHCPv6 reply, relayed":    lab.Forge(l.Harvester.Addr6, host.Addr6, lab.UDP(547, 546, []byte("reply"))),
	} {
		tg.must(router.Send(packet))
		_ = client.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, _, err := client.ReadFrom(make([]byte, 64)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	if mtu := tg.mtu(l.Harvester.Addr6); mtu == 1280 {
		t.Fatalf("the path MTU is %d before anything was sent", mtu)
	}
	inner := lab.Forge(host.Addr6, l.Harvester.Addr6, lab.Echo(1, 1)) // of an echo request the kernel believes it without a socket
	tg.must(router.Send(lab.Forge(l.Harvester.Addr6, host.Addr6, lab.TooBig(1280, inner))))
	tg.await("the packet-too-big to count", func() bool { return tg.mtu(l.Harvester.Addr6) == 1280 })
}

// mtu is the path MTU from the stable address; 0: the link's.
func (tg *target) mtu(to netip.Addr) int {
	tg.Helper()
	routes, err := tg.lab.Host.Netlink().RouteGet(to.AsSlice())
	tg.must(err)
	return routes[0].MTU
}

// await looks until something is so; there is no event for it.
func (tg *target) await(what string, so func() bool) {
	tg.Helper()
	for range 300 {
		if so() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	tg.Errorf("waited in vain for %s", what)
}
