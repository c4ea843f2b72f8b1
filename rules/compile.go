package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Compile makes the rule set of a shield. A shield of mode Off is the zero
// Table. It fails where something cannot be written: a device whose name would
// be a pattern or end the text.
func Compile(s Shield) (Table, error) {
	if s.Mode == Off {
		return Table{}, nil
	}
	for _, d := range s.Devices {
		if d == "" || strings.ContainsAny(d, "\"*\n") {
			return Table{}, fmt.Errorf("guard device %q: nftables cannot name it", d)
		}
	}
	t := Table{Name: TableName, Comment: s.Comment(), Owner: s.Owner}
	t.Sets = s.Sets()
	for _, d := range s.Devices {
		t.Chains = append(t.Chains, ingress(s, d))
	}
	t.Chains = append(t.Chains, prerouting(s), guard(s), postrouting(), leaving(s), input(), strangers6(s), strangers4(s), published(s), closed(s))
	return t, nil
}

// SameFrame reports whether two shields are the same but for elements that run
// out: whether their tables have the same sets, chains and rules.
func (s Shield) SameFrame(o Shield) bool {
	return s.Mode == o.Mode && s.Preset == o.Preset && s.Owner == o.Owner && s.LogGroup == o.LogGroup &&
		slices.Equal(s.Devices, o.Devices) && slices.Equal(s.Allow, o.Allow) && slices.Equal(Widest(s.Trusted), Widest(o.Trusted)) &&
		slices.Equal(hoodLengths(s.Hoods, true), hoodLengths(o.Hoods, true)) && slices.Equal(hoodLengths(s.Hoods, false), hoodLengths(o.Hoods, false))
}

// Comment is the comment of the shield's table.
func (s Shield) Comment() string { return "ntpveil shield, preset " + plain(s.Preset) }

// plain is text that nft can read back: it knows no escapes.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' {
			return '_'
		}
		return r
	}, s[:min(len(s), 64)])
}

// say is the comment of a rule that drops, or would.
func say(m Mode, text string) string {
	switch m {
	case Enforce:
		return text
	case Disarmed:
		return "disarmed, not dropped: " + text
	}
	return "observing, not dropped: " + text
}

// end is what a rule that drops ends in.
func end(m Mode) []Expr {
	if m.Drops() {
		return []Expr{Count{}, Drop{}}
	}
	return []Expr{Count{}}
}

func rule(comment string, exprs ...Expr) Rule { return Rule{Exprs: exprs, Comment: comment} }

var (
	v4 = Is{Family, IPv4}
	v6 = Is{Family, IPv6}
)

// ingress guards one device before the kernel parses hop-by-hop options,
// puts fragments together (-400) or translates addresses (-100). While nothing
// is dropped the packet is left to prerouting, so that it is counted once.
func ingress(s Shield, device string) Chain {
	c := Chain{Name: IngressName(device), Hook: &Hook{Name: "ingress", Priority: -500, Device: device}}
	to := In{Fields: []Field{DAddr6}, Set: Exposed6}
	if s.Mode.Drops() {
		c.Rules = []Rule{rule("to a throw-away address", v6, to, Goto{"guard"})}
	} else {
		c.Rules = []Rule{rule(say(s.Mode, "to a throw-away address, counted in prerouting"), v6, to, Accept{})}
	}
	return c
}

// IngressName is the name of a device's chain. A device may have a name that no
// chain can have; what is strange in it is written /hh, as no device's name has a slash.
func IngressName(device string) string {
	var b strings.Builder
	b.WriteString("ingress_")
	for _, c := range []byte(device) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-.", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "/%02x", c)
		}
	}
	return b.String()
}

func prerouting(s Shield) Chain {
	return Chain{Name: "prerouting", Hook: &Hook{Name: "prerouting", Priority: -450}, Rules: []Rule{
		rule("the host itself", From{"lo"}, Accept{}),
		rule("to a throw-away address, by any other device", v6, In{Fields: []Field{DAddr6}, Set: Exposed6}, Goto{"guard"}),
	}}
}

// guard is all that may reach a throw-away address. RFC 4890's list does not
// apply to it: a forged packet-too-big would change how the stable address behaves.
func guard(s Shield) Chain {
	return Chain{Name: "guard", Rules: []Rule{
		rule("neighbour discovery, without extension headers", v6, Is{NextHdr6, ICMP6}, Is{HopLimit6, maxHop}, neighbours, Accept{}),
		rule("the solicited answer", v6, Is{NextHdr6, UDP}, In{Fields: tuple6In, Set: Solicited6}, Accept{}),
		rule("probes, for each throw-away address", v6, Note{Set: Probes6, Field: DAddr6, Timeout: probesKept}),
		rule("tell ntpveil, at a bounded rate for each address", v6,
			Note{Set: Limits6, Field: DAddr6, Limit: &Below{logRate, logBurst}}, Log{PrefixProbe, s.LogGroup, snaplen}),
		{Exprs: end(s.Mode), Comment: say(s.Mode, "unsolicited, to a throw-away address")},
	}}
}

var (
	neighbours = OneOf{TypeICMP6, []uint16{135, 136}}
	tuple6In   = []Field{SAddr6, SPortUDP, DAddr6, DPortUDP}
	tuple6Out  = []Field{DAddr6, DPortUDP, SAddr6, SPortUDP}
	tuple4In   = []Field{SAddr4, SPortUDP, DAddr4, DPortUDP}
)

// postrouting stands after source translation (100), so that a redirected
// service is not cut.
func postrouting() Chain {
	return Chain{Name: "postrouting", Hook: &Hook{Name: "postrouting", Priority: 300}, Rules: []Rule{
		rule("from a throw-away address", v6, In{Fields: []Field{SAddr6}, Set: Exposed6}, Goto{"leaving"}),
	}}
}

// leaving is all that may leave from a throw-away address; without our
// neighbour advertisement the router would never deliver the answer.
func leaving(s Shield) Chain {
	return Chain{Name: "leaving", Rules: []Rule{
		rule("neighbour discovery", v6, Is{NextHdr6, ICMP6}, Is{HopLimit6, maxHop}, neighbours, Accept{}),
		rule("the one query", v6, Is{NextHdr6, UDP}, In{Fields: tuple6Out, Set: Solicited6}, Accept{}),
		{Exprs: end(s.Mode), Comment: say(s.Mode, "anything else from a throw-away address")},
	}}
}

// input guards the host's own addresses against closed neighbourhoods.
func input() Chain {
	return Chain{Name: "input", Hook: &Hook{Name: "input", Priority: -10}, Rules: []Rule{
		rule("the host itself", From{"lo"}, Accept{}),
		rule("what the host has begun", Known{}, Accept{}),
		rule("strangers, by IPv6", v6, Goto{"strangers6"}),
		rule("strangers, by IPv4", v4, Goto{"strangers4"}),
	}}
}

// strangers6 lets through what RFC 4890, section 4.4.1, says must not be
// dropped; echo stands there too.
func strangers6(s Shield) Chain {
	icmp := Is{Transport, ICMP6}
	c := Chain{Name: "strangers6", Rules: []Rule{
		rule("the solicited answer, whatever conntrack says", v6, Is{Transport, UDP}, In{Fields: tuple6In, Set: Solicited6}, Accept{}),
		rule("errors and echo (RFC 4890)", v6, icmp, OneOf{TypeICMP6, []uint16{1, 2, 3, 4, 128, 129}}, Accept{}),
		rule("neighbour discovery, from the link only", v6, icmp, Is{HopLimit6, maxHop}, OneOf{TypeICMP6, []uint16{133, 134, 135, 136, 141, 142, 148, 149}}, Accept{}),
		rule("multicast listeners and routers, from the link only", v6, icmp, Is{HopLimit6, 1}, OneOf{TypeICMP6, []uint16{130, 131, 132, 143, 151, 152, 153}}, Accept{}),
		rule("DHCPv6 answers", v6, Is{Transport, UDP}, Is{SPortUDP, 547}, Is{DPortUDP, 546}, Accept{}),
		rule("the link", v6, Within{SAddr6, linkLocal}, Accept{}),
		rule("trusted", v6, In{Fields: []Field{SAddr6}, Set: Trusted6}, Accept{}),
	}}
	c.Rules = append(c.Rules, allowed(s, v6)...)
	c.Rules = append(c.Rules, lookups(s, true)...)
	return c
}

func strangers4(s Shield) Chain {
	c := Chain{Name: "strangers4", Rules: []Rule{
		rule("the solicited answer, whatever conntrack says", v4, Is{Transport, UDP}, In{Fields: tuple4In, Set: Solicited4}, Accept{}),
		rule("errors", v4, Is{Transport, ICMP4}, OneOf{TypeICMP4, []uint16{3, 11, 12}}, Accept{}),
		rule("DHCP answers", v4, Is{Transport, UDP}, Is{SPortUDP, 67}, Is{DPortUDP, 68}, Accept{}),
		rule("trusted", v4, In{Fields: []Field{SAddr4}, Set: Trusted4}, Accept{}),
	}}
	c.Rules = append(c.Rules, allowed(s, v4)...)
	c.Rules = append(c.Rules, lookups(s, false)...)
	return c
}

// published guards what the host publishes under its own addresses and forwards
// to others, as containers do: their packets never come to input. What it forwards
// else is not its own.
func published(s Shield) Chain {
	c := Chain{Name: "published", Hook: &Hook{Name: "forward", Priority: -10}, Rules: []Rule{
		rule("what was begun before", Known{}, Accept{}),
		rule("trusted", v6, In{Fields: []Field{SAddr6}, Set: Trusted6}, Accept{}),
		rule("trusted", v4, In{Fields: []Field{SAddr4}, Set: Trusted4}, Accept{}),
	}}
	for _, p := range protocols {
		for _, port := range s.ports(p.name) { // one rule each: nft 1.0.6 cannot print a set of these
			c.Rules = append(c.Rules, rule("allowed services", Is{Transport, p.id}, Is{PortPublished, port}, Accept{}))
		}
	}
	for _, r := range slices.Concat(lookups(s, true), lookups(s, false)) {
		r.Exprs = slices.Insert(r.Exprs, 1, Expr(Translated{})) // behind the family
		c.Rules = append(c.Rules, r)
	}
	return c
}

// protocols have ports.
var protocols = []struct {
	name string
	id   uint16
	port Field
}{{"tcp", TCP, DPortTCP}, {"udp", UDP, DPortUDP}}

// ports are those of shield.allow.
func (s Shield) ports(protocol string) []uint16 {
	var ports []uint16
	for _, a := range s.Allow {
		if a.Proto == protocol {
			ports = append(ports, a.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// allowed are the services that stay reachable.
func allowed(s Shield, family Expr) []Rule {
	var out []Rule
	for _, p := range protocols {
		match := Expr(OneOf{p.port, s.ports(p.name)})
		switch ports := s.ports(p.name); len(ports) {
		case 0:
			continue
		case 1:
			match = Is{p.port, ports[0]}
		}
		out = append(out, rule("allowed services", family, Is{Transport, p.id}, match, Accept{}))
	}
	return out
}

// lookups are the neighbourhoods, one set a prefix length: a lookup costs 60 to
// 130 ns up to a million elements.
func lookups(s Shield, six bool) []Rule {
	var out []Rule
	for _, bits := range hoodLengths(s.Hoods, six) {
		family, field := v4, SAddr4
		if six {
			family, field = v6, SAddr6
		}
		out = append(out, rule(fmt.Sprintf("from a closed neighbourhood, a /%d", bits), family,
			In{Fields: []Field{field}, Bits: bits, Set: hoodSet(six, bits)}, Goto{"closed"}))
	}
	return out
}

func closed(s Shield) Chain {
	return Chain{Name: "closed", Rules: []Rule{
		rule("tell ntpveil, at a bounded rate", Below{logRate, logBurst}, Log{PrefixHood, s.LogGroup, snaplen}),
		{Exprs: end(s.Mode), Comment: say(s.Mode, "unsolicited, from a closed neighbourhood")},
	}}
}
