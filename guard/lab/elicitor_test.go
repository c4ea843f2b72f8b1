package lab_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

// variants are what a host may be besides: each has a lab of its own.
var variants = []struct {
	name             string
	forward, foreign bool
}{
	{"plain", false, false}, {"forwarding", true, false}, {"with foreign NAT and conntrack", false, true}, {"forwarding, with foreign NAT", true, true},
}

// foreign is somebody else's table, which has connection tracking and both
// kinds of translation at work before and after ours.
const foreign = `table inet foreign {
	chain early { type filter hook prerouting priority -300; ct state invalid counter; }
	chain into { type nat hook prerouting priority -100; meta nfproto ipv6 tcp dport 8081 redirect to :80; }
	chain out { type nat hook postrouting priority 100; }
	chain local { type filter hook input priority 0; ct state new counter; }
}`

// watchFor is how long a host is watched after the last packet: the kernel
// complains of a fragment that nobody completed after 60 s.
const watchFor = 70 * time.Second

// TestElicitors is the elicitor table: every packet that might draw an answer
// out of a host is sent to its stable address, which answers many of them, and
// to a throw-away one, before and after its removal: nothing comes back from any
// address.
func TestElicitors(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			tg := guarded(t, nil)
			host := tg.lab.Host
			if v.forward {
				tg.must(host.Sysctl("ipv6/conf/all/accept_ra", "2"))
				tg.must(host.Sysctl("ipv6/conf/eth0/accept_ra", "2"))
				tg.must(host.Sysctl("ipv6/conf/all/forwarding", "1"))
			}
			if v.foreign {
				tg.run(foreign, "nft", "-f", "-")
			}
			watch := watchFor
			if testing.Short() {
				tg.must(host.Sysctl("ipv6/ip6frag_time", "2"))
				watch = 4 * time.Second
			}
			sent, answers := tg.elicit(host.Addr6, nil)
			if answers < 20 {
				t.Errorf("the stable address answered %d of %d packets: the table draws nothing out", answers, sent)
			}
			t.Logf("the stable address: %d packets, %d answers", sent, answers)
			tg.elicitAway(watch)
		})
	}
}

// TestElicitorsUnguarded is the control: where the shield only observes, a
// throw-away address answers as any other does.
func TestElicitorsUnguarded(t *testing.T) {
	t.Parallel()
	tg := guarded(t, func(s *rules.Shield, _ *target) { s.Mode = rules.Observe })
	if sent, answers := tg.elicit(tg.away, nil); answers < 20 {
		t.Errorf("%d of %d packets were answered", answers, sent)
	}
}

// elicitAway does the same to the throw-away address, standing and removed.
func (tg *target) elicitAway(watch time.Duration) {
	before := tg.mtu(tg.lab.Scanner.Addr6)
	capture, err := tg.lab.Host.Link.Capture()
	tg.must(err)
	began := time.Now()
	sent, _ := tg.elicit(tg.away, capture)
	inner := lab.Forge(tg.away, tg.lab.Scanner.Addr6, lab.Echo(1, 1))
	tg.must(tg.lab.Host.Link.Peer.Send(lab.Forge(tg.lab.Scanner.Addr6, tg.away, lab.TooBig(1280, inner))))
	tg.must(tg.stack.Set(sysclock.Mono(), nil))
	// A router that looks whether the address is still there, as it does by itself now and then.
	tg.must(tg.lab.Host.Link.Peer.Send(lab.WithHopLimit(solicitation(netip.MustParseAddr("fe80::1"), tg.away), 255)))
	again, _ := tg.elicit(tg.away, capture)
	time.Sleep(watch) // it is the absence of packets in this time that is tested
	tg.must(capture.Close())
	answers := 0
	for _, p := range capture.Packets() {
		if !p.Out || p.Housekeeping() || tg.quotesControl(p) {
			continue
		}
		if answers++; answers <= 10 {
			tg.Errorf("after %s the host sent %s", p.At.Sub(began).Round(time.Millisecond), p)
		}
	}
	if after := tg.mtu(tg.lab.Scanner.Addr6); after != before {
		tg.Errorf("a forged packet-too-big changed the path MTU of the stable address from %d to %d", before, after)
	}
	tg.Logf("the throw-away address: %d packets while it stood, %d after, %d answers in %s", sent, again, answers, time.Since(began).Round(time.Second))
	seen, err := tg.table.Seen(sysclock.Mono())
	tg.must(err)
	if dropped := seen.Exposed[0].Dropped; dropped < uint64(sent) {
		tg.Errorf("the guard counted %d of %d packets", dropped, sent+again)
	}
}

// quotesControl reports whether a packet is the kernel's late complaint of a
// fragment that the control had sent to the stable address, a minute before.
func (tg *target) quotesControl(p lab.Packet) bool {
	const quoted = 8 + 24 // the destination of the packet that an ICMPv6 error quotes
	return p.ICMP6(3) && len(p.Payload) >= quoted+16 && netip.AddrFrom16([16]byte(p.Payload[quoted:])) == tg.lab.Host.Addr6
}

// elicit sends the whole table to an address. Without a capture it makes one of
// its own and counts the answers.
func (tg *target) elicit(to netip.Addr, capture *lab.Capture) (sent, answers int) {
	tg.Helper()
	own := capture == nil
	if own {
		var err error
		capture, err = tg.lab.Host.Link.Capture()
		tg.must(err)
	}
	packets := table(tg.lab.Scanner.Addr6, to)
	const burst = 50 // no more than the queues of a cable hold
	for at := 0; at < len(packets); at += burst {
		tg.must(tg.lab.Host.Link.Peer.Send(packets[at:min(at+burst, len(packets))]...))
	}
	if !own {
		return len(packets), 0
	}
	// the last one is an echo request, which is answered when all others were
	mark := lab.Forge(tg.lab.Scanner.Addr6, tg.lab.Host.Addr6, lab.Echo(0xfeed, 0xbeef))
	tg.must(tg.lab.Host.Link.Peer.Send(mark))
	_, err := capture.Await(tg.Context(), func(p lab.Packet) bool {
		return p.Out && p.ICMP6(129) && len(p.Payload) > 8 && p.Payload[4] == 0xfe && p.Payload[5] == 0xed
	})
	tg.must(err)
	tg.must(capture.Close())
	for _, p := range capture.Packets() {
		if p.Out && !p.Housekeeping() {
			answers++
		}
	}
	return len(packets), answers - 1
}

// table is every elicitor: each header before each payload, whole, and in pieces.
func table(from, to netip.Addr) [][]byte {
	var out [][]byte
	id := uint32(1)
	for _, p := range payloads() {
		for _, h := range headers(to) {
			out = append(out, lab.Forge(from, to, append(h, p)...))
		}
		whole := lab.Forge(from, to, p)
		long := lab.Forge(from, to, lab.Destination(lab.Option{Type: 0x1e, Data: make([]byte, 40)}), p)
		out = append(out,
			lab.Cut(whole, id, 0, 8, true),                                       // first only
			lab.Cut(long, id+1, 0, 16, true),                                     // first only, its payload further on
			append(lab.Cut(long, id+2, 0, 16, true), 7),                          // trailing bytes
			lab.Cut(long, id+3, 8, -1, false),                                    // last only
			lab.Cut(long, id+4, 0, 24, true), lab.Cut(long, id+4, 16, -1, false), // overlapping
			lab.Cut(long, id+5, 0, 16, true), lab.Cut(long, id+5, 16, -1, false), // complete
			odd(lab.Cut(long, id+6, 0, 16, true)),
			lab.Cut(whole, id+7, 0, -1, false), // atomic
		)
		id += 8
	}
	return out
}

// odd cuts a byte off, so that the length of a fragment is no multiple of 8,
// which a host complains of (RFC 8200 section 4.5).
func odd(b []byte) []byte {
	b = b[:len(b)-1]
	b[4], b[5] = byte((len(b)-40)>>8), byte(len(b)-40)
	return b
}

// headers are the extension headers that hosts complain of, or should not.
func headers(to netip.Addr) [][]lab.Part {
	out := [][]lab.Part{nil}
	for _, kind := range []uint8{0x1e, 0x5e, 0x9e, 0xde, 0x05} { // unknown ones of each action, and router alert
		o := lab.Option{Type: kind, Data: []byte{0, 0}}
		out = append(out, []lab.Part{lab.HopByHop(o)}, []lab.Part{lab.Destination(o)}, []lab.Part{lab.HopByHop(o), lab.Destination(o)})
	}
	for _, kind := range []uint8{0, 2, 4, 253} {
		out = append(out, []lab.Part{lab.Routing(kind, 0, to)}, []lab.Part{lab.Routing(kind, 1, to)})
	}
	return append(out, []lab.Part{lab.Destination(), lab.Routing(253, 1, to)})
}

// payloads are TCP, UDP, every ICMPv6 type that is not neighbour discovery
// proper, and next headers that nobody knows.
func payloads() []lab.Part {
	out := []lab.Part{
		lab.TCP(40000, 22, lab.SYN), lab.TCP(40001, 80, lab.SYN), lab.TCP(40002, 443, lab.SYN), lab.TCP(40003, 22, lab.ACK), lab.TCP(40004, 22, lab.FIN),
		lab.UDP(40000, 53, []byte("query")), lab.UDP(40001, 54, []byte("query")), lab.UDP(123, 40123, make([]byte, 48)), lab.UDP(547, 546, []byte("reply")),
	}
	for kind := range 256 {
		if kind == 135 || kind == 136 {
			continue // they pass with hop limit 255 alone, and are the next test's
		}
		out = append(out, lab.ICMP6(uint8(kind), 0, make([]byte, 60)))
	}
	for _, proto := range []uint8{unix.IPPROTO_NONE, unix.IPPROTO_ESP, unix.IPPROTO_AH, unix.IPPROTO_SCTP, unix.IPPROTO_DCCP, unix.IPPROTO_GRE, unix.IPPROTO_IPV6, unix.IPPROTO_IPIP, 139, 140, 143, 253, 254, 255} {
		out = append(out, lab.Payload(proto, make([]byte, 24)))
	}
	return out
}

// solicitation asks for the link-layer address of another one, behind some headers.
func solicitation(from, of netip.Addr, h ...lab.Part) []byte {
	body := append(make([]byte, 4), of.AsSlice()...)
	return lab.Forge(from, of, append(h, lab.ICMP6(135, 0, append(body, 1, 1, 2, 0, 0, 0, 0, 9)))...)
}

// TestNeighbourDiscoveryWithTricks: solicitations pass in their plain form
// alone; from afar, or behind other headers, they are dropped like all else.
func TestNeighbourDiscoveryWithTricks(t *testing.T) {
	t.Parallel()
	tg := guarded(t, nil)
	solicit := func(from netip.Addr, h ...lab.Part) []byte { return solicitation(from, tg.away, h...) }
	router := netip.MustParseAddr("fe80::1")
	tricks := map[string][]byte{
		"hop limit 64":          solicit(router),
		"from afar":             solicit(tg.lab.Scanner.Addr6),
		"behind hop-by-hop":     lab.WithHopLimit(solicit(router, lab.HopByHop()), 255),
		"behind destination":    lab.WithHopLimit(solicit(router, lab.Destination()), 255),
		"in an atomic fragment": lab.Cut(lab.WithHopLimit(solicit(router), 255), 9, 0, -1, false),
	}
	capture, err := tg.lab.Host.Link.Capture()
	tg.must(err)
	for _, p := range tricks {
		tg.must(tg.lab.Host.Link.Peer.Send(p))
	}
	plain := lab.WithHopLimit(solicit(router), 255)
	tg.must(tg.lab.Host.Link.Peer.Send(plain))
	_, err = capture.Await(t.Context(), func(p lab.Packet) bool { return p.Out && p.ICMP6(136) && p.Src == tg.away })
	if err != nil {
		t.Errorf("a plain solicitation is not answered: %v", err)
	}
	tg.must(capture.Close())
	seen, err := tg.table.Seen(sysclock.Mono())
	tg.must(err)
	if got := seen.Exposed[0].Dropped; got != uint64(len(tricks)) {
		t.Errorf("%d of %d tricks were dropped", got, len(tricks))
	}
}
