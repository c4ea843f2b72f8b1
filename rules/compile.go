package rules

import (
	"cmp"
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
	if err := s.nameable(); err != nil {
		return Table{}, err
	}
	t := Table{Name: TableName, Comment: s.Comment(), Owner: s.Owner, Sets: s.Sets()}
	if !s.alone() {
		for _, d := range s.Devices {
			t.Chains = append(t.Chains, ingress(s, d))
		}
		t.Chains = append(t.Chains, prerouting(), reached(s), guard(s), postrouting(), leaving(s))
	}
	t.Chains = append(t.Chains, learn(s)...)
	if s.Choices.Hooks != AtForward {
		t.Chains = append(t.Chains, input(s), strangers6(s), strangers4(s))
		if !s.Choices.Listening {
			t.Chains = append(t.Chains, published(s))
		}
	}
	if s.Choices.Hooks != AtInput {
		t.Chains = append(t.Chains, forward(s), arriving(s), transit(s, true), transit(s, false))
	}
	if s.Choices.leafed(s.Allow) {
		t.Chains = append(t.Chains, leaf(s))
	}
	t.Chains = append(t.Chains, closed(s))
	if s.toOthers() == "others" { // behind all others: these lead to it
		t.Chains = append(t.Chains, Chain{Name: "others", Rules: append(noting(), rule("and closed out", Goto{"closed"}))})
	}
	return t, nil
}

// nameable reports the first device that nftables cannot name.
func (s Shield) nameable() error {
	devices := slices.Concat(s.Devices, s.Facts.Outside)
	for _, a := range s.Allow {
		if a.Device != "" {
			devices = append(devices, a.Device)
		}
	}
	for _, d := range devices {
		if d == "" || strings.ContainsAny(d, "\"\\*\n") {
			return fmt.Errorf("guard device %q: nftables cannot name it", d)
		}
	}
	return nil
}

// SameFrame reports whether two shields are the same but for elements that run
// out: whether their tables have the same sets, chains and rules.
func (s Shield) SameFrame(o Shield) bool {
	return s.Mode == o.Mode && s.Preset == o.Preset && s.Owner == o.Owner && s.LogGroup == o.LogGroup &&
		slices.Equal(s.Devices, o.Devices) && slices.Equal(s.Allow, o.Allow) && slices.Equal(Widest(s.Trusted), Widest(o.Trusted)) &&
		s.Hold == o.Hold && s.Choices == o.Choices && s.Facts.equal(o.Facts) &&
		slices.Equal(s.lookedUp(true), o.lookedUp(true)) && slices.Equal(s.lookedUp(false), o.lookedUp(false)) && SameLists(s.Lists, o.Lists)
}

// Comment is the comment of the shield's table.
func (s Shield) Comment() string { return tableComment + plain(s.Preset) }

const tableComment = "ntpveil shield, preset "

// PresetOf is the preset that the comment of a table names, or empty.
func PresetOf(table string) string {
	if name, ok := strings.CutPrefix(table, tableComment); ok {
		return name
	}
	return ""
}

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

func prerouting() Chain {
	return Chain{Name: "prerouting", Hook: &Hook{Name: "prerouting", Priority: -450}, Rules: []Rule{
		rule("to a throw-away address, by any device", v6, In{Fields: []Field{DAddr6}, Set: Exposed6}, Goto{"reached"}),
	}}
}

// reached stops neighbour discovery of an address that is gone, which the ingress hook
// cannot tell. A host that forwards would send it on, and an ICMPv6 error back, to a router
// that looks whether the address is still there as well.
func reached(s Shield) Chain {
	return Chain{Name: "reached", Rules: []Rule{
		{Exprs: append([]Expr{v6, Is{NextHdr6, ICMP6}, Is{HopLimit6, maxHop}, neighbours, Away{}}, end(s.Mode)...),
			Comment: say(s.Mode, "neighbour discovery of an address that is gone")},
		rule("all else", Goto{"guard"}),
	}}
}

// guard is all that may reach a throw-away address. RFC 4890's list does not
// apply to it: a forged packet-too-big would change how the stable address behaves.
func guard(s Shield) Chain {
	return Chain{Name: "guard", Rules: []Rule{
		itself,
		rule("neighbour discovery, without extension headers", v6, Is{NextHdr6, ICMP6}, Is{HopLimit6, maxHop}, neighbours, Accept{}),
		rule("the solicited answer", v6, Is{NextHdr6, UDP}, In{Fields: tuple6In, Set: Solicited6}, Accept{}),
		rule("the solicited key exchange", v6, Is{NextHdr6, TCP}, In{Fields: keys6In, Set: Keys6}, Accept{}),
		rule("probes, for each throw-away address", v6, Note{Set: Probes6, Field: DAddr6, Timeout: probesKept, Count: true}),
		rule("tell ntpveil, at a bounded rate for each address", v6,
			Note{Set: Limits6, Field: DAddr6, Limit: &Below{Rate: logRate, Burst: logBurst}}, Log{PrefixProbe, s.LogGroup, snaplen}),
		{Exprs: end(s.Mode), Comment: say(s.Mode, "unsolicited, to a throw-away address")},
	}}
}

// itself is asked for where a packet was suspected, which few are.
var itself = rule("the host itself", From{"lo"}, Accept{})

var (
	neighbours = OneOf{TypeICMP6, []uint16{135, 136}}
	tuple6In   = []Field{SAddr6, SPortUDP, DAddr6, DPortUDP}
	tuple6Out  = []Field{DAddr6, DPortUDP, SAddr6, SPortUDP}
	tuple4In   = []Field{SAddr4, SPortUDP, DAddr4, DPortUDP}
	keys6In    = []Field{SAddr6, SPortTCP, DAddr6, DPortTCP}
	keys6Out   = []Field{DAddr6, DPortTCP, SAddr6, SPortTCP}
	keys4In    = []Field{SAddr4, SPortTCP, DAddr4, DPortTCP}
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
		rule("the one key exchange", v6, Is{NextHdr6, TCP}, In{Fields: keys6Out, Set: Keys6}, Accept{}),
		{Exprs: end(s.Mode), Comment: say(s.Mode, "anything else from a throw-away address")},
	}}
}

// input guards the host's own addresses against closed neighbourhoods.
func input(s Shield) Chain {
	c := Chain{Name: "input", Hook: &Hook{Name: "input", Priority: -10}}
	if s.Choices.leafed(s.Allow) {
		c.Rules = append(c.Rules, rule("NTP that is no answer", Is{Transport, UDP}, Is{DPortUDP, ntpPort}, NTPMode{Not: true, Mode: modeServer}, Goto{"leaf"}))
	}
	c.Rules = append(c.Rules, rule("what the host has begun", Known{}, Accept{}))
	if s.Choices.leafed(s.Allow) {
		c.Rules = append(c.Rules, rule("NTP that nobody here asked for", Is{Transport, UDP}, Is{DPortUDP, ntpPort}, Goto{"leaf"}))
	}
	c.Rules = append(c.Rules, sieve(s, true, "strangers6")...)
	c.Rules = append(c.Rules, sieve(s, false, "strangers4")...)
	return c
}

// strangers6 lets through what RFC 4890, section 4.4.1, says must not be
// dropped; echo stands there too.
func strangers6(s Shield) Chain {
	icmp := Is{Transport, ICMP6}
	c := Chain{Name: "strangers6", Rules: []Rule{itself}}
	if !s.alone() {
		c.Rules = append(c.Rules,
			rule("the solicited answer, whatever conntrack says", v6, Is{Transport, UDP}, In{Fields: tuple6In, Set: Solicited6}, Accept{}),
			rule("the solicited key exchange, whatever conntrack says", v6, Is{Transport, TCP}, In{Fields: keys6In, Set: Keys6}, Accept{}))
	}
	c.Rules = append(c.Rules,
		rule("errors and echo (RFC 4890)", v6, icmp, OneOf{TypeICMP6, []uint16{1, 2, 3, 4, 128, 129}}, Accept{}),
		rule("neighbour discovery, from the link only", v6, icmp, Is{HopLimit6, maxHop}, OneOf{TypeICMP6, []uint16{133, 134, 135, 136, 141, 142, 148, 149}}, Accept{}),
		rule("multicast listeners and routers, from the link only", v6, icmp, Is{HopLimit6, 1}, OneOf{TypeICMP6, []uint16{130, 131, 132, 143, 151, 152, 153}}, Accept{}),
		rule("DHCPv6 answers", v6, Is{Transport, UDP}, Is{SPortUDP, 547}, Is{DPortUDP, 546}, Accept{}))
	if !s.Choices.Everyone {
		c.Rules = append(c.Rules, rule("the link", v6, Within{SAddr6, linkLocal}, Accept{}))
	}
	c.Rules = append(c.Rules, strangers(s, true)...)
	return c
}

func strangers4(s Shield) Chain {
	c := Chain{Name: "strangers4", Rules: []Rule{itself}}
	if !s.alone() {
		c.Rules = append(c.Rules,
			rule("the solicited answer, whatever conntrack says", v4, Is{Transport, UDP}, In{Fields: tuple4In, Set: Solicited4}, Accept{}),
			rule("the solicited key exchange, whatever conntrack says", v4, Is{Transport, TCP}, In{Fields: keys4In, Set: Keys4}, Accept{}))
	}
	c.Rules = append(c.Rules,
		rule("errors", v4, Is{Transport, ICMP4}, OneOf{TypeICMP4, []uint16{3, 11, 12}}, Accept{}),
		rule("DHCP answers", v4, Is{Transport, UDP}, Is{SPortUDP, 67}, Is{DPortUDP, 68}, Accept{}))
	if s.Choices.Everyone { // a neighbourhood has no routers on our link
		c.Rules = append(c.Rules, rule("multicast listeners and routers, from the link only", v4, Is{Transport, IGMP}, Is{TTL4, 1}, Accept{}))
	}
	c.Rules = append(c.Rules, strangers(s, false)...)
	return c
}

// strangers is what holds for either family behind what must not be dropped.
func strangers(s Shield, six bool) []Rule {
	family, trusted := v4, In{Fields: []Field{SAddr4}, Set: Trusted4}
	if six {
		family, trusted = v6, In{Fields: []Field{SAddr6}, Set: Trusted6}
	}
	out := append([]Rule{rule("trusted", family, trusted, Accept{})}, allowed(s, family)...)
	if s.Choices.Listening {
		out = append(out, rule("what somebody here listens for", family, OneOf{Transport, []uint16{TCP, UDP}}, Listening{}, Accept{}))
	}
	return append(out, ends(s, six)...)
}

// closing is one reason to close a packet out: its source is in a set.
type closing struct {
	comment string
	sieve   In
	in      In     // a set of its own where its elements count packets; else that of the sieve
	more    []Expr // what else must hold, and what counts
	to      string // the chain behind it; empty: closed
}

// closings are all of a family.
func closings(s Shield, six bool) []closing {
	return slices.Concat(lookups(s, six), recalls(s, six), blocks(s, six))
}

// sieve sends on those packets of strangers that one of the look-ups hits, or in a
// perimeter all. What matches nothing, nearly everything, costs the look-ups and no more.
// A set counts every look-up: those whose counts are to be true are not looked up here.
func sieve(s Shield, six bool, to string) (out []Rule) {
	family, list := familyOf(six), closings(s, six)
	if s.Choices.Everyone {
		return []Rule{rule("strangers: this is a perimeter", family, Goto{to})}
	}
	for ; len(list) > mostInOne; list = list[1:] {
		out = append(out, rule("perhaps "+list[0].comment, family, list[0].sieve, Goto{to}))
	}
	if len(list) == 0 {
		return out
	}
	nowhere := []Expr{family}
	for _, c := range list {
		c.sieve.Not = true
		nowhere = append(nowhere, c.sieve)
	}
	return append(out,
		rule("strangers in none of these", append(nowhere, Accept{})...),
		rule("strangers to be looked at", family, Goto{to}))
}

// mostInOne is how many look-ups are put into one rule, whose expressions the kernel takes
// up to 4 KiB of: some 30.
const mostInOne = 16

// ends are the rules by which a packet is closed out, behind what must not be.
func ends(s Shield, six bool) (out []Rule) {
	family := familyOf(six)
	for _, c := range closings(s, six) {
		out = append(out, Rule{Comment: c.comment, Exprs: slices.Concat([]Expr{family, c.in}, c.more, []Expr{Goto{cmp.Or(c.to, "closed")}})})
	}
	if s.Choices.Everyone {
		out = append(out, rule("everyone else: this is a perimeter", family, Goto{s.toOthers()}))
	}
	return out
}

// toOthers is where a packet goes on that is closed out, but not from a neighbourhood
// whose element counts it.
func (s Shield) toOthers() string {
	if s.Choices.Everyone || len(s.Lists) > 0 || s.learns() != FromNothing {
		return "others"
	}
	return "closed"
}

// noting counts a packet for the network that it came from. A full set breaks the
// rule off that it stands in: what happens to the packet is for the rules behind.
func noting() []Rule {
	return []Rule{
		rule("of whom how much, by the /48", v6, Note{Set: Others6, Field: SAddr6, Bits: usual6, Timeout: probesKept, Count: true}),
		rule("of whom how much, by the /24", v4, Note{Set: Others4, Field: SAddr4, Bits: usual4, Timeout: probesKept, Count: true}),
	}
}

func familyOf(six bool) Expr {
	if six {
		return v6
	}
	return v4
}

// published guards what the host publishes under its own addresses and forwards
// to others, as containers do: their packets never come to input. What it forwards
// else is not its own. Where all that listens stays reachable, so does this.
func published(s Shield) Chain {
	c := Chain{Name: "published", Hook: &Hook{Name: "forward", Priority: -10}, Rules: []Rule{
		rule("what was begun before", Known{}, Accept{}),
		rule("trusted", v6, In{Fields: []Field{SAddr6}, Set: Trusted6}, Accept{}),
		rule("trusted", v4, In{Fields: []Field{SAddr4}, Set: Trusted4}, Accept{}),
	}}
	for _, p := range protocols {
		for _, a := range s.allow(p.name) { // one rule each: nft 1.0.6 cannot print a set of these
			c.Rules = append(c.Rules, a.rule("allowed services", Is{Transport, p.id}, a.match(PortPublished)))
		}
	}
	for _, r := range slices.Concat(ends(s, true), ends(s, false)) {
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

// allow are the allowed services of a protocol, sorted, each once.
func (s Shield) allow(protocol string) []Service {
	var out []Service
	for _, a := range s.Allow {
		if a.Proto == protocol {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Last, b.Last))
	})
	return slices.Compact(out)
}

// allowed are the services that stay reachable: single ports of any device in one
// rule, each range and each service of one device in a rule of its own.
func allowed(s Shield, family Expr) []Rule {
	var out []Rule
	for _, p := range protocols {
		var ports []uint16
		var others []Rule
		for _, a := range s.allow(p.name) {
			if a.Last == 0 && a.Device == "" {
				ports = append(ports, a.Port)
			} else {
				others = append(others, a.rule("allowed services", family, Is{Transport, p.id}, a.match(p.port)))
			}
		}
		match := Expr(OneOf{p.port, ports})
		if len(ports) == 1 {
			match = Is{p.port, ports[0]}
		}
		if len(ports) > 0 {
			out = append(out, rule("allowed services", family, Is{Transport, p.id}, match, Accept{}))
		}
		out = append(out, others...)
	}
	return out
}

func (s Service) match(port Field) Expr {
	if s.Last == 0 {
		return Is{port, s.Port}
	}
	return Between{port, s.Port, s.Last}
}

// rule accepts what matches, if it came in by the service's device.
func (s Service) rule(comment string, match ...Expr) Rule {
	if s.Device != "" {
		match = slices.Insert(match, 0, Expr(From{s.Device}))
	}
	return rule(comment, append(match, Accept{})...)
}

// lookups are the neighbourhoods, one set a prefix length: a lookup costs 60 to
// 130 ns up to a million elements.
func lookups(s Shield, six bool) (out []closing) {
	field := SAddr4
	if six {
		field = SAddr6
	}
	for _, bits := range s.lookedUp(six) {
		in := In{Fields: []Field{field}, Bits: bits, Set: hoodSet(six, bits)}
		sieve := in
		sieve.Set = sieveSet(six, bits)
		out = append(out, closing{comment: fmt.Sprintf("from a closed neighbourhood, a /%d", bits), sieve: sieve, in: in})
	}
	return out
}

// closed is where a packet ends that is closed out. An answer would leave from the
// address that it was sent to: never from a throw-away one.
func closed(s Shield) Chain {
	c := Chain{Name: "closed"}
	if !s.Choices.Silent {
		c.Rules = append(c.Rules, rule("tell ntpveil, at a bounded rate", s.Choices.limit(), Log{PrefixHood, s.LogGroup, snaplen}))
	}
	comment, last := say(s.Mode, "unsolicited, from a closed neighbourhood"), end(s.Mode)
	if s.Choices.Everyone {
		comment = say(s.Mode, "unsolicited, to no listed service")
	}
	if s.Choices.Reject && s.Mode.Drops() {
		if !s.alone() {
			c.Rules = append(c.Rules, rule("no answer from a throw-away address", v6, In{Fields: []Field{DAddr6}, Set: Exposed6}, Count{}, Drop{}))
		}
		c.Rules = append(c.Rules, rule(comment, Is{Transport, TCP}, Count{}, Reject{Reset: true}))
		last = []Expr{Count{}, Reject{}}
	}
	c.Rules = append(c.Rules, Rule{Exprs: last, Comment: comment})
	return c
}
