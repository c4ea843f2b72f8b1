package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

var (
	stable    = netip.MustParseAddr("2001:db8:1::5")
	throwAway = netip.MustParseAddr("2001:db8:1::a")
	stranger  = netip.MustParseAddr("2001:db8:1::66")
	harvester = netip.MustParseAddr("2001:db8:5::99") // beside the server
	server    = netip.MustParseAddr("2001:db8:5::1")
	router    = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// in runs f in the namespace, on a thread that ends with it.
func (k *kernel) in(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(k.ns), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	must(t, <-done)
}

// wire is the far end of the host's only device, eth0.
type wire struct {
	asked uint16 // how often the stable address was asked for an echo
	t     *testing.T
	host  *kernel
	mac   net.HardwareAddr
	fd    int
}

// newWire is a host with a stable and a throw-away address, and somebody who
// sends it packets. Everybody is behind one router whose MAC the host knows.
func newWire(t *testing.T) *wire {
	w := &wire{t: t, host: newKernel(t)}
	far := newKernel(t)
	a := netlink.NewLinkAttrs()
	a.Name = "eth0"
	must(t, w.host.link.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "far0", PeerNamespace: netlink.NsFd(far.ns), PeerHardwareAddr: router}))
	near, err := w.host.link.LinkByName("eth0")
	must(t, err)
	w.mac = near.Attrs().HardwareAddr
	peer, err := far.link.LinkByName("far0")
	must(t, err)
	must(t, far.link.LinkSetUp(peer))
	must(t, w.host.link.LinkSetUp(near))
	lo, err := w.host.link.LinkByName("lo")
	must(t, err)
	must(t, w.host.link.LinkSetUp(lo))
	for _, ip := range []netip.Addr{stable, throwAway} {
		must(t, w.host.link.AddrAdd(near, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}))
	}
	via := net.ParseIP("fe80::1")
	must(t, w.host.link.NeighAdd(&netlink.Neigh{LinkIndex: near.Attrs().Index, IP: via, HardwareAddr: router, State: netlink.NUD_PERMANENT}))
	must(t, w.host.link.RouteAdd(&netlink.Route{LinkIndex: near.Attrs().Index, Gw: via, Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}))
	far.in(t, func() (err error) {
		proto := int(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)))
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, proto); err == nil {
			err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: peer.Attrs().Index})
		}
		return err
	})
	must(t, setBuffer(w.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF))
	must(t, unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}))
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

// send sends one IPv6 packet: extension headers and payload as given.
func (w *wire) send(from, to netip.Addr, next byte, payload []byte, hops byte) {
	w.t.Helper()
	frame := append(append(append([]byte{}, w.mac...), router...), 0x86, 0xdd, 0x60, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(payload)))
	frame = append(frame, next, hops)
	frame = append(append(frame, from.AsSlice()...), to.AsSlice()...)
	_, err := unix.Write(w.fd, append(frame, payload...))
	must(w.t, err)
}

// answers are the packets that the host sent, up to its answer to an echo request to
// the stable address: what came before that was handled before it.
func (w *wire) answers() (out []string) {
	w.t.Helper()
	w.asked++
	ask := func() {
		w.send(stranger, stable, 58, sum(stranger, stable, 58, 2, []byte{128, 0, 0, 0, 0xab, 0xcd, byte(w.asked >> 8), byte(w.asked)}), 64)
	}
	ask()
	b := make([]byte, 2048)
	for tries := 1; ; {
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EAGAIN) && tries < 20 { // the machine's backlog is shared with every other test
			tries++
			ask()
			continue
		}
		must(w.t, err)
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		p := b[:n]
		if n < 14+48 || p[12] != 0x86 || p[13] != 0xdd {
			continue
		}
		ip := p[14:]
		source, _ := netip.AddrFromSlice(ip[8:24])
		switch next, kind := ip[6], ip[40]; {
		case next == 58 && kind == 129 && ip[44] == 0xab && ip[45] == 0xcd && source == stable:
			if binary.BigEndian.Uint16(ip[46:]) == w.asked {
				return out
			}
		case next == 58 && (kind >= 133 && kind <= 136 || kind == 143), next == 0: // the link's own
		default:
			out = append(out, fmt.Sprintf("next header %d, type or port %d, from %s", next, kind, source))
		}
	}
}

// sum puts the checksum of the pseudo header and payload at an offset.
func sum(from, to netip.Addr, next byte, at int, p []byte) []byte {
	b := append(append(append([]byte{}, from.AsSlice()...), to.AsSlice()...), 0, 0, 0, byte(len(p)), 0, 0, 0, next)
	b = append(b, p...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	total := uint32(0)
	for i := 0; i < len(b); i += 2 {
		total += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for total > 0xffff {
		total = total>>16 + total&0xffff
	}
	binary.BigEndian.PutUint16(p[at:], ^uint16(total))
	return p
}

func udp(from, to netip.AddrPort) []byte {
	p := binary.BigEndian.AppendUint16(nil, from.Port())
	p = binary.BigEndian.AppendUint16(p, to.Port())
	return sum(from.Addr(), to.Addr(), 17, 6, append(p, 0, 12, 0, 0, 't', 'i', 'm', 'e'))
}

func syn(from, to netip.Addr, port uint16) []byte {
	p := binary.BigEndian.AppendUint16([]byte{0x9c, 0x40}, port)
	return sum(from, to, 6, 16, append(p, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0))
}

// elicitors are packets of which most hosts answer many: every kind of payload
// behind every kind of extension header.
func elicitors(from, to netip.Addr) (next []byte, payloads [][]byte) {
	type part struct {
		next byte
		p    []byte
	}
	parts := []part{{6, syn(from, to, 8080)}, {6, syn(from, to, 1)}, {17, udp(netip.AddrPortFrom(from, 123), netip.AddrPortFrom(to, 9090))},
		{17, udp(netip.AddrPortFrom(from, 1), netip.AddrPortFrom(to, 1))}, {59, nil}, {253, make([]byte, 8)}, {132, make([]byte, 16)}}
	for kind := range 256 {
		if kind != 135 && kind != 136 {
			parts = append(parts, part{58, sum(from, to, 58, 2, append([]byte{byte(kind), 0, 0, 0, 0, 0, 5, 0}, make([]byte, 48)...))})
		}
	}
	parts = append(parts, part{58, sum(from, to, 58, 2, append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, to.AsSlice()...))})
	for _, x := range parts {
		for _, h := range []part{
			{255, nil},
			{0, []byte{x.next, 0, 0x80, 4, 0, 0, 0, 0}},                        // hop-by-hop, unknown option that wants an answer
			{60, []byte{x.next, 0, 0xc0, 4, 0, 0, 0, 0}},                       // destination options, the same
			{43, append([]byte{x.next, 2, 0, 1, 0, 0, 0, 0}, to.AsSlice()...)}, // routing header 0
			{44, []byte{x.next, 0, 0, 1, 0, 0, 0, 9}},                          // first fragment of more
			{44, []byte{x.next, 0, 0, 9, 0, 0, 0, 9}},                          // second fragment, more to come
			{44, []byte{x.next, 0, 0, 0, 0, 0, 0, 9}},                          // atomic fragment
		} {
			if h.next == 255 {
				next, payloads = append(next, x.next), append(payloads, x.p)
			} else {
				next, payloads = append(next, h.next), append(payloads, append(h.p[:len(h.p):len(h.p)], x.p...))
			}
		}
	}
	return next, payloads
}

// TestNothingAnswers: without the guard the host answers from both its addresses;
// with it nothing comes back, and every single packet was dropped before the
// kernel kept anything of it.
func TestNothingAnswers(t *testing.T) {
	w := newWire(t)
	w.listen("[::]:8080", "[::]:9090")
	w.host.in(t, func() error { // every error is told, not only one a second
		return os.WriteFile("/proc/sys/net/ipv6/icmp/ratelimit", []byte("0"), 0)
	})
	fire := func() (sent int, answers []string) {
		next, payloads := elicitors(stranger, throwAway)
		for i := range next {
			hops := byte(64)
			if i >= len(next)-7 {
				hops = 254 // neighbour discovery from beyond the link, or behind an extension header
				if next[i] != 58 {
					hops = 255
				}
			}
			w.send(stranger, throwAway, next[i], payloads[i], hops)
			if i%200 == 199 {
				answers = append(answers, w.answers()...)
			}
		}
		return len(next), append(answers, w.answers()...)
	}
	if _, got := fire(); len(got) < 30 {
		t.Fatalf("without a guard the packets elicit only %d answers", len(got))
	}
	s := w.host.open(t)
	shield := rules.Shield{Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"},
		Exposed: []rules.Exposed{{Addr: throwAway, Until: mono() + time.Hour}}}
	must(t, s.Grow(mono(), shield))
	for _, devices := range [][]string{{"eth0"}, nil} { // by ingress, by prerouting alone
		shield.Devices = devices
		must(t, s.Shrink(mono(), shield))
		before := seen(t, s).Exposed[0].Dropped
		sent, got := fire()
		if len(got) > 0 {
			t.Errorf("guarded on %v: %d answers, such as %q", devices, len(got), got[0])
		}
		if n := seen(t, s).Exposed[0].Dropped - before; devices != nil && n != uint64(sent) {
			t.Errorf("guarded on %v: %d dropped of %d", devices, n, sent)
		}
	}
}

// listen opens TCP and UDP sockets on the host.
func (w *wire) listen(tcp, udp string) (l net.Listener, c net.PacketConn) {
	w.t.Helper()
	w.host.in(w.t, func() (err error) {
		if l, err = net.Listen("tcp6", tcp); err == nil {
			c, err = net.ListenPacket("udp6", udp)
		}
		return err
	})
	w.t.Cleanup(func() { l.Close(); c.Close() })
	return l, c
}

// TestOneExchangePasses: the query leaves and its answer comes in, and nothing
// else does either, from that server or from another port of it.
func TestOneExchangePasses(t *testing.T) {
	w := newWire(t)
	_, c := w.listen("[::]:8080", netip.AddrPortFrom(throwAway, 40001).String())
	ask := netip.AddrPortFrom(server, 123)
	s := w.host.open(t)
	must(t, s.Grow(mono(), rules.Shield{Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"},
		Exposed:   []rules.Exposed{{Addr: throwAway, Until: mono() + time.Hour}},
		Solicited: []rules.Solicited{{Server: ask, Our: netip.AddrPortFrom(throwAway, 40001), Until: mono() + time.Minute}},
		Hoods:     []rules.Hood{{Prefix: netip.MustParsePrefix("2001:db8:5::/48"), Server: server, Until: mono() + time.Hour}}}))
	_, err := c.WriteTo([]byte("query"), net.UDPAddrFromAddrPort(ask))
	must(t, err)
	if got := w.answers(); len(got) != 1 {
		t.Errorf("the query: %q left", got)
	}
	_, err = c.WriteTo([]byte("other"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, 124)))
	if err == nil {
		t.Error("a packet to another port left without an error")
	}
	if got := w.answers(); len(got) != 0 {
		t.Errorf("to another port: %q left", got)
	}
	our := netip.AddrPortFrom(throwAway, 40001)
	for _, from := range []netip.AddrPort{netip.AddrPortFrom(server, 124), netip.AddrPortFrom(harvester, 123), ask} {
		w.send(from.Addr(), throwAway, 17, udp(from, our), 64)
	}
	// Behind an extension header, which the kernel would parse before it finds the
	// port, not even that server may answer.
	for _, h := range [][]byte{{0, 17, 0, 1, 4, 0, 0, 0, 0}, {60, 17, 0, 1, 4, 0, 0, 0, 0}, {44, 17, 0, 0, 0, 0, 0, 0, 9}} {
		w.send(server, throwAway, h[0], append(h[1:], udp(ask, our)...), 64)
	}
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 100)
	n, from, err := c.ReadFrom(b)
	must(t, err)
	if string(b[:n]) != "time" || from.(*net.UDPAddr).AddrPort() != ask {
		t.Errorf("read %q from %s", b[:n], from)
	}
	if got := w.answers(); len(got) != 0 {
		t.Errorf("answered %q", got)
	}
	if n := seen(t, s).Exposed[0].Dropped; n != 5 {
		t.Errorf("%d probes counted, want 5", n)
	}
}

// TestOneKeyExchangePasses: TCP of the one tuple crosses the guard in both
// directions, and nothing else does, UDP of the same ports included.
func TestOneKeyExchangePasses(t *testing.T) {
	w := newWire(t)
	w.listen("[::]:8080", "[::]:0") // whatever reaches it is answered, if it may leave
	from, our := netip.AddrPortFrom(server, 40000), netip.AddrPortFrom(throwAway, 8080)
	s := w.host.open(t)
	shield := rules.Shield{Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"},
		Exposed:   []rules.Exposed{{Addr: throwAway, Until: mono() + time.Hour}},
		Solicited: []rules.Solicited{{Server: from, Our: our, Until: mono() + time.Minute}}}
	try := func(what string, want int, from netip.Addr, next byte, p []byte) {
		t.Helper()
		w.send(from, throwAway, next, p, 64)
		if got := w.answers(); len(got) != want {
			t.Errorf("%s: %d answers, want %d: %q", what, len(got), want, got)
		}
	}
	must(t, s.Grow(mono(), shield))
	try("TCP, where UDP was solicited", 0, server, 6, syn(server, throwAway, 8080))
	shield.Solicited[0].TCP = true
	must(t, s.Grow(mono(), shield))
	must(t, s.Shrink(mono(), shield))
	try("the solicited exchange", 1, server, 6, syn(server, throwAway, 8080))
	try("another port of ours", 0, server, 6, syn(server, throwAway, 8081))
	try("somebody else", 0, harvester, 6, syn(harvester, throwAway, 8080))
	try("UDP of the same ports", 0, server, 17, udp(from, our))
	for _, h := range [][]byte{{0, 6, 0, 1, 4, 0, 0, 0, 0}, {60, 6, 0, 1, 4, 0, 0, 0, 0}, {44, 6, 0, 0, 0, 0, 0, 0, 9}} {
		try("behind an extension header", 0, server, h[0], append(h[1:], syn(server, throwAway, 8080)...))
	}
	if n := seen(t, s).Exposed[0].Dropped; n != 7 {
		t.Errorf("%d probes counted, want 7", n)
	}
}

// TestNeighbourhoodIsClosed to the stable address, but for what the host began,
// what is allowed or trusted, and what must not be dropped.
func TestNeighbourhoodIsClosed(t *testing.T) {
	w := newWire(t)
	_, c := w.listen("[::]:8080", netip.AddrPortFrom(stable, 40002).String())
	s := w.host.open(t)
	shield := rules.Shield{Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"},
		Allow: []rules.Service{{Proto: "tcp", Port: 22}},
		Hoods: []rules.Hood{{Prefix: netip.MustParsePrefix("2001:db8:5::/48"), Server: server, Until: mono() + time.Hour}}}
	must(t, s.Grow(mono(), shield))
	try := func(what string, want int, from netip.Addr, next byte, p []byte) {
		t.Helper()
		w.send(from, stable, next, p, 64)
		if got := w.answers(); len(got) != want {
			t.Errorf("%s: %d answers, want %d: %q", what, len(got), want, got)
		}
	}
	try("a connection", 0, harvester, 6, syn(harvester, stable, 8080))
	try("a datagram", 0, harvester, 17, udp(netip.AddrPortFrom(harvester, 123), netip.AddrPortFrom(stable, 1)))
	try("an allowed service", 1, harvester, 6, syn(harvester, stable, 22))
	try("an honest visitor", 1, stranger, 6, syn(stranger, stable, 8080))
	if h := seen(t, s).Hoods[0]; h.Dropped != 2 {
		t.Errorf("%d dropped, want 2", h.Dropped)
	}
	peer := netip.AddrPortFrom(harvester, 5000)
	_, err := c.WriteTo([]byte("query"), net.UDPAddrFromAddrPort(peer))
	must(t, err)
	w.send(harvester, stable, 17, udp(peer, netip.AddrPortFrom(stable, 40002)), 64)
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, _, err = c.ReadFrom(make([]byte, 100))
	if err != nil {
		t.Errorf("what the host began: %v", err)
	}
	shield.Trusted = []netip.Prefix{netip.PrefixFrom(harvester, 128)}
	w.answers()
	must(t, s.Grow(mono(), shield))
	try("a trusted one", 1, harvester, 6, syn(harvester, stable, 8080))
	shield.Trusted, shield.Mode = nil, rules.Observe
	must(t, s.Grow(mono(), shield))
	must(t, s.Shrink(mono(), shield))
	try("observed", 1, harvester, 6, syn(harvester, stable, 8081))
	if h := seen(t, s).Hoods[0]; h.Dropped != 3 {
		t.Errorf("%d counted, want 3", h.Dropped)
	}
}
