package lab_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

// learnt is what the kernel learnt by itself, without timeouts, sorted.
func (tg *target) learnt() []string {
	tg.Helper()
	var out []string
	for _, set := range []string{"learnt6", "learnt64", "learnt4"} {
		cmd := tg.lab.Host.Command(tg.Context(), "nft", "list", "set", "inet", "ntpveil", set)
		text, err := cmd.CombinedOutput()
		if err != nil {
			tg.Fatalf("nft list set %s: %v\n%s", set, err, text)
		}
		_, list, some := strings.Cut(string(text), "elements = { ")
		if !some {
			continue
		}
		list, _, _ = strings.Cut(list, " }")
		for _, e := range strings.Split(list, ",") {
			out = append(out, strings.Fields(e)[0])
		}
	}
	slices.Sort(out)
	return out
}

func (tg *target) wantLearnt(what string, want ...string) {
	tg.Helper()
	slices.Sort(want)
	if got := tg.learnt(); !slices.Equal(got, want) {
		tg.Errorf("%s: learnt %v, want %v", what, got, want)
	}
}

// around are the harvester's neighbourhoods as they are learnt.
func (tg *target) around() []string {
	h := tg.lab.Harvester
	return []string{netip.PrefixFrom(h.Addr6, 48).Masked().Addr().String(), netip.PrefixFrom(h.Addr4, 24).Masked().Addr().String()}
}

// runOut lets what is learnt from one last query of a node's run out in a moment.
func (tg *target) runOut(from *lab.Node) {
	tg.Helper()
	tg.shield.Hold = time.Second
	tg.must(tg.table.Grow(sysclock.Mono(), tg.shield))
	tg.ask(from, tg.lab.Harvester.Addr6)
	tg.ask(from, tg.lab.Harvester.Addr4)
	tg.await("what was learnt to run out", func() bool { return len(tg.learnt()) == 0 })
}

// TestCompanionOfRealDaemons: chronyd and ntpd as they are, no daemon of ours: the
// neighbourhoods that they ask are closed with the query, and open again when no
// query has renewed them.
func TestCompanionOfRealDaemons(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(tg *target, dir string) *lab.Cmd{
		"chronyd": func(tg *target, dir string) *lab.Cmd {
			return tg.daemon(dir, "chronyd", []string{"-x", "-d", "-u", "root", "-f"},
				"cmdport 0", "bindcmdaddress /", "pidfile "+dir+"/pid", "driftfile "+dir+"/drift")
		},
		"ntpd": func(tg *target, dir string) *lab.Cmd {
			return tg.daemon(dir, "ntpd", []string{"-n", "-p", dir + "/pid", "-c"}, "disable ntp", "driftfile "+dir+"/drift")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tg := facing(t, "companion", nil)
			tg.walk("before", everything, everything)
			tg.wantLearnt("before")
			daemon := start(tg, t.TempDir())
			tg.await(name+" to ask", func() bool { return len(tg.learnt()) == 2 })
			tg.wantLearnt("asked", tg.around()...)
			tg.walk("while "+name+" asks", "22", everything)
			tg.must(unix.Kill(daemon.Process.Pid, unix.SIGTERM))
			_ = daemon.Wait()
			tg.walk("after it has ended", "22", everything)
			tg.runOut(tg.lab.Host)
			tg.walk("after it ran out", everything, everything)
		})
	}
}

// daemon runs a time daemon on the host that asks the harvester by either family,
// every second or two.
func (tg *target) daemon(dir, name string, args []string, conf ...string) *lab.Cmd {
	tg.Helper()
	for _, a := range []netip.Addr{tg.lab.Harvester.Addr6, tg.lab.Harvester.Addr4} {
		conf = append(conf, fmt.Sprintf("server %s iburst minpoll %d maxpoll 3", a, map[string]int{"chronyd": 0, "ntpd": 3}[name]))
	}
	file := filepath.Join(dir, name+".conf")
	tg.must(os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o644))
	cmd := tg.lab.Host.Command(tg.Context(), name, append(args, file)...)
	said, err := os.Create(filepath.Join(dir, "said"))
	tg.must(err)
	tg.Cleanup(func() {
		said.Close()
		if text, _ := os.ReadFile(said.Name()); tg.Failed() {
			tg.Logf("%s said:\n%s", name, text)
		}
	})
	cmd.Stdout, cmd.Stderr = said, said
	tg.must(cmd.Start())
	return cmd
}

// sends sends an NTP packet of client mode to port 123 of an address, as a user.
func (tg *target) sends(user int, to netip.Addr) {
	tg.Helper()
	script := fmt.Sprintf(`printf '\x23%%047d' 0 > /dev/udp/%s/123`, to)
	args := []string{"--reuid", fmt.Sprint(user), "--regid", fmt.Sprint(user), "--clear-groups", "bash", "-c", script}
	if out, err := tg.lab.Host.Command(tg.Context(), "setpriv", args...).CombinedOutput(); err != nil {
		tg.Fatalf("user %d cannot send: %v\n%s", user, err, out)
	}
}

// TestCompanionAndLocalUsers: nobody but the users of time daemons closes anything,
// and they only what is somebody else's.
func TestCompanionAndLocalUsers(t *testing.T) {
	t.Parallel()
	if b, err := os.ReadFile("/proc/self/uid_map"); err != nil || strings.Fields(string(b))[2] == "1" {
		t.Skip("needs a second user (root of the machine)")
	}
	tg := facing(t, "companion", func(s *rules.Shield, tg *target) {
		s.Facts.Users = append(s.Facts.Users, rules.User{Name: "daemon", ID: 1})
		s.Trusted = []netip.Prefix{netip.MustParsePrefix("2001:db8:717::/64")}
	})
	h := tg.lab.Harvester
	for _, a := range []netip.Addr{h.Addr6, h.Addr4} {
		tg.sends(65534, a)
	}
	tg.wantLearnt("another user asked")
	for _, a := range []string{"2001:db8:717::717", "2001:db8:1:77::1", "fd00::1", "10.9.9.9", "192.168.1.1", "172.20.0.1", "100.64.0.1", "10.1.1.77"} {
		tg.sends(1, netip.MustParseAddr(a))
	}
	tg.wantLearnt("what is trusted, near or private was asked")
	for _, a := range []string{h.Addr6.String(), h.Addr4.String(), "64:ff9b::203.0.113.9"} {
		tg.sends(1, netip.MustParseAddr(a))
	}
	tg.wantLearnt("a time daemon's user asked", append(tg.around(), "64:ff9b::cb00:7100")...)
}

// forged4 is an IPv4 datagram without a UDP checksum, which is allowed.
func forged4(from, to netip.AddrPort, data []byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = append(append(b, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// raw4 sends IPv4 packets with forged sources from a node.
func (tg *target) raw4(from *lab.Node, to netip.Addr, packets [][]byte) {
	tg.Helper()
	tg.must(from.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
				return err
			}
		}
		return nil
	}))
}

const flood = 300

// TestForgedFloodClosesNothing: 300 datagrams whose source is port 123 of 300
// victims, to a service of root's that answers each with what it was sent: a packet
// that looks like a query. Without the direction of the connection it closed 300.
func TestForgedFloodClosesNothing(t *testing.T) {
	t.Parallel()
	tg := facing(t, "companion", nil)
	l := tg.lab
	tg.run(`table inet watch { chain sent {
		type filter hook output priority 0; udp dport 123 counter
	}
	}`, "nft", "-f", "-")
	query := lab.NTP{Version: 4, Mode: 3, Transmit: 1}.Bytes()
	var six, four [][]byte
	for i := range flood {
		six = append(six, lab.Forge(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::7", 0x4000+i)), l.Host.Addr6, lab.UDP(123, 53, query)))
		from := netip.AddrFrom4([4]byte{100, byte(128 + i/256), byte(i), 7})
		four = append(four, forged4(netip.AddrPortFrom(from, 123), netip.AddrPortFrom(l.Host.Addr4, 53), query))
	}
	for part := range slices.Chunk(six, 50) { // no more than a socket takes at once
		tg.must(l.Host.Link.Peer.Send(part...))
		tg.scan(l.Visitor, lab.Scan{Target: l.Host.Addr6, TCP: []uint16{22}, UDP: []uint16{53}})
	}
	for part := range slices.Chunk(four, 50) {
		tg.raw4(l.Visitor, l.Host.Addr4, part)
		tg.scan(l.Visitor, lab.Scan{Target: l.Host.Addr4, TCP: []uint16{22}, UDP: []uint16{53}})
	}
	out, err := l.Host.Command(t.Context(), "nft", "list", "table", "inet", "watch").CombinedOutput()
	tg.must(err)
	if want := fmt.Sprintf("counter packets %d ", 2*flood); !strings.Contains(string(out), want) {
		t.Errorf("not every datagram was answered, want %q:\n%s", want, out)
	}
	tg.wantLearnt("after the flood")
	tg.walk("after the flood", everything, everything)
}

// TestCompanionServesTime: clients that ask from port 123 stay served and are not
// closed out, even where conntrack is told to look away.
func TestCompanionServesTime(t *testing.T) {
	t.Parallel()
	for _, tracked := range []bool{true, false} {
		t.Run(fmt.Sprintf("tracked=%v", tracked), func(t *testing.T) {
			t.Parallel()
			tg := facing(t, "companion", nil)
			l := tg.lab
			_, err := l.Host.Chronyd(t.Context(), "server "+l.Harvester.Addr6.String()+" iburst")
			tg.must(err)
			if !tracked {
				tg.run(`table inet raw { chain prerouting {
					type filter hook prerouting priority -300; udp dport 123 notrack
				}
				}`, "nft", "-f", "-")
			}
			tg.await("chronyd to ask", func() bool { return len(tg.learnt()) == 1 })
			for _, our := range []netip.Addr{l.Host.Addr6, l.Host.Addr4} {
				for range 3 {
					if !tg.askFrom123(l.Visitor, our) {
						t.Errorf("%s does not serve a client that asks from port 123", our)
					}
				}
			}
			tg.wantLearnt("after clients were served", tg.around()[0])
			if got := tg.reached(l.Visitor, l.Host.Addr6); got != everything {
				t.Errorf("the client reaches %q", got)
			}
		})
	}
}

func (tg *target) askFrom123(from *lab.Node, to netip.Addr) bool {
	tg.Helper()
	r, err := from.Scan(tg.Context(), lab.Scan{Target: to, UDP: []uint16{123}, From: 123, Wait: 2 * time.Second, Payload: lab.NTP{Version: 4, Mode: 3, Transmit: 1}.Bytes()})
	tg.must(err)
	return len(r.In(lab.Open)) == 1
}

// behind puts a node behind the host, which becomes its router.
func (tg *target) behind() *lab.Node {
	tg.Helper()
	l := tg.lab
	inner, err := l.Add("inner")
	tg.must(err)
	tg.must(inner.Link.Set(false))
	for _, s := range []string{"ipv6/conf/eth0/accept_ra=2", "ipv6/conf/all/forwarding=1", "ipv4/ip_forward=1", "ipv6/conf/default/accept_dad=0"} {
		key, value, _ := strings.Cut(s, "=")
		tg.must(l.Host.Sysctl(key, value))
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan0"
	tg.must(l.Host.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "up0", PeerNamespace: netlink.NsFd(inner.FD())}))
	tg.wire(l.Host, "lan0", "2001:db8:1:77::1/64", "10.77.0.1/24")
	tg.wire(inner, "up0", "2001:db8:1:77::2/64", "10.77.0.2/24")
	for _, via := range []string{"2001:db8:1:77::1", "10.77.0.1"} {
		tg.must(inner.Netlink().RouteAdd(&netlink.Route{Gw: netip.MustParseAddr(via).AsSlice()}))
	}
	for to, via := range map[string]netip.Addr{"2001:db8:1:77::/64": l.Host.Addr6, "10.77.0.0/24": l.Host.Addr4} {
		dst, err := netlink.ParseIPNet(to)
		tg.must(err)
		tg.must(l.Router.Netlink().RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice(), LinkIndex: l.Host.Link.Peer.Index}))
	}
	inner.Addr6, inner.Addr4 = netip.MustParseAddr("2001:db8:1:77::2"), netip.MustParseAddr("10.77.0.2")
	tg.must(inner.Serve([]uint16{22, 80}, []uint16{53}))
	for _, to := range []netip.Addr{inner.Addr6, inner.Addr4} { // a new link is not ready at once
		tg.await("the way to the host behind", func() bool { return tg.reached(l.Visitor, to) == everything })
	}
	return inner
}

// wire brings a device up with addresses that are usable at once.
func (tg *target) wire(n *lab.Node, device string, addrs ...string) {
	tg.Helper()
	link, err := n.Netlink().LinkByName(device)
	tg.must(err)
	tg.must(n.Netlink().LinkSetUp(link))
	for _, text := range addrs {
		a, err := netlink.ParseAddr(text)
		tg.must(err)
		a.Flags = unix.IFA_F_NODAD
		if a.IP.To4() != nil {
			a.Flags = 0
		}
		tg.must(n.Netlink().AddrAdd(link, a))
	}
}

// TestRouterGuardsWhatIsBehind: a query that passes closes its neighbourhood to the
// hosts behind, and to the router; a stranger's query closes nothing.
func TestRouterGuardsWhatIsBehind(t *testing.T) {
	t.Parallel()
	tg := facing(t, "router", nil)
	l := tg.lab
	inner := tg.behind()
	walk := func(when, harvester string) {
		t.Helper()
		for _, to := range []netip.Addr{inner.Addr6, inner.Addr4} {
			if got := tg.reached(l.Harvester.Node, to); got != harvester {
				t.Errorf("%s, %s, from the harvester: %q, want %q", when, to, got, harvester)
			}
			if got := tg.reached(l.Visitor, to); got != everything {
				t.Errorf("%s, %s, from an honest visitor: %q", when, to, got)
			}
			if got := tg.reached(l.Host, to); got != everything {
				t.Errorf("%s, %s, from the router: %q", when, to, got)
			}
		}
	}
	walk("before", everything)
	for _, to := range []netip.Addr{inner.Addr6, inner.Addr4} { // out of the harvester's own mouth
		tg.ask(l.Harvester.Node, to)
		tg.ask(l.Visitor, to)
	}
	tg.wantLearnt("strangers asked")
	for _, server := range []netip.Addr{l.Harvester.Addr6, l.Harvester.Addr4} {
		if !tg.ask(inner, server) {
			t.Errorf("%s does not answer through the router", server)
		}
	}
	tg.wantLearnt("a host behind asked", tg.around()...)
	walk("after the sync", "22")
	tg.walk("the router itself", "22", everything)
	tg.runOut(inner)
	walk("after it ran out", everything)
}

// raw6 sends IPv6 packets with forged sources from a node, by their destinations.
func (tg *target) raw6(from *lab.Node, packets [][]byte) {
	tg.Helper()
	tg.must(from.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, &unix.SockaddrInet6{Addr: [16]byte(p[24:40])}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestRouterBoundsEachNetwork: a host that asks from an address of its own for each
// query closes so much, takes no room from others, and no other network pays for it.
func TestRouterBoundsEachNetwork(t *testing.T) {
	t.Parallel()
	tg := facing(t, "router", nil)
	inner := tg.behind()
	query := lab.NTP{Version: 4, Mode: 3, Transmit: 1}.Bytes()
	ask := func(from string, i int) []byte {
		to := netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::7", 0x4000+i))
		return lab.Forge(netip.MustParseAddr(from), to, lab.UDP(4000, 123, query))
	}
	var packets [][]byte
	for i := range 3000 {
		packets = append(packets, ask(fmt.Sprintf("2001:db8:1:77::%x", 0x100+i), i))
	}
	began := time.Now()
	for part := range slices.Chunk(packets, 50) {
		tg.raw6(inner, part)
		time.Sleep(time.Millisecond) // no more than a queue takes at once
	}
	most := 1000 + 5*int(time.Since(began).Seconds()+1)
	if n := len(tg.learnt()); n < 1000 || n > most {
		t.Errorf("one network closed %d neighbourhoods, want 1000 to %d", n, most)
	}
	tg.raw6(inner, [][]byte{ask("2001:db8:1:78::2", 0x3000)})
	if got := tg.learnt(); !slices.Contains(got, "2001:db8:7000::") {
		t.Errorf("another network closes nothing any more")
	}
	packets = nil
	for i := range flood {
		packets = append(packets, ask("2001:db8:1:79::2", 0x3100+i))
	}
	before := len(tg.learnt())
	tg.raw6(inner, packets)
	if n := len(tg.learnt()) - before; n < 16 || n > 18 {
		t.Errorf("one address closed %d neighbourhoods, want 16", n)
	}
}

// TestRouterBoundsEachHost: what one host behind it can close is so much, and no
// other one pays for it.
func TestRouterBoundsEachHost(t *testing.T) {
	t.Parallel()
	tg := facing(t, "router", func(s *rules.Shield, _ *target) { s.Choices.LearnRate, s.Choices.LearnMax = 1, 4 })
	inner := tg.behind()
	query := lab.NTP{Version: 4, Mode: 3, Transmit: 1}.Bytes()
	var packets [][]byte
	for i := range flood {
		to := netip.AddrFrom4([4]byte{203, byte(i / 256), byte(i), 7})
		packets = append(packets, forged4(netip.AddrPortFrom(inner.Addr4, 4000), netip.AddrPortFrom(to, 123), query))
	}
	for _, p := range packets {
		tg.raw4(inner, netip.AddrFrom4([4]byte(p[16:20])), [][]byte{p})
	}
	if n := len(tg.learnt()); n < 4 || n > 5 {
		t.Errorf("one host closed %d neighbourhoods, want 4, or 5 where it took a minute", n)
	}
	other := forged4(netip.MustParseAddrPort("10.77.0.3:4000"), netip.MustParseAddrPort("198.51.100.7:123"), query)
	tg.raw4(inner, netip.MustParseAddr("198.51.100.7"), [][]byte{other})
	if got := tg.learnt(); !slices.Contains(got, "198.51.100.0") {
		t.Errorf("another host closes nothing any more: %v", got)
	}
}
