package rules

import (
	"net/netip"
	"time"
)

const (
	ntpPort    = 123
	modeClient = 3 // RFC 5905, section 7.3
	modeServer = 4
)

// Addresses whose neighbourhood is never learnt: they are somebody's own network,
// or nobody's.
var (
	unlearnt6 = []netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("ff00::/8")}
	unlearnt4 = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("224.0.0.0/3"),
	}
	nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
)

// question is what a query looks like that is learnt from. The direction keeps
// out what the host answers: 300 datagrams with the forged source port 123 to any
// UDP service of the host closed 300 prefixes without it. The mode keeps out what
// a server sends to clients that ask from port 123, should conntrack have
// forgotten that they asked.
func question(family Expr) []Expr {
	return []Expr{family, Is{Transport, UDP}, Is{DPortUDP, ntpPort}, Original{}, NTPMode{Mode: modeClient}}
}

// learn are the chains in which the kernel learns neighbourhoods by itself, in the
// very call that sends the query.
func learn(s Shield) []Chain {
	switch s.learns() {
	case FromOutput:
		return []Chain{output(), asking(s), learning(s, true), learning(s, false)}
	case FromForward:
		return []Chain{passing(s, true), passing(s, false), learning(s, true), learning(s, false)}
	}
	return nil
}

func output() Chain {
	return Chain{Name: "output", Hook: &Hook{Name: "output", Priority: -10}, Rules: []Rule{
		rule("to the host itself", To{"lo"}, Accept{}),
		rule("an NTP query, by IPv6", append(question(v6), Goto{"asking"})...),
		rule("an NTP query, by IPv4", append(question(v4), Goto{"asking"})...),
	}}
}

// asking lets no user but those of time daemons close a neighbourhood.
func asking(s Shield) Chain {
	c := Chain{Name: "asking"}
	for _, u := range s.Facts.Users {
		for _, f := range []struct {
			family Expr
			chain  string
		}{{v6, "learn6"}, {v4, "learn4"}} {
			c.Rules = append(c.Rules, rule("by user "+plain(u.Name), f.family, SentBy{u.ID}, Goto{f.chain}))
		}
	}
	return c
}

// passing bounds what one host behind this one can close. By IPv6 a host has as many
// addresses as it likes, so that its network is bounded, too, and first: what is over
// that bound takes no room among the learners. Both stand in one rule, which ends at
// the first limit that is passed.
func passing(s Shield, six bool) Chain {
	limit := Below{Rate: or(s.Choices.LearnRate, learnRate), Burst: or(s.Choices.LearnMax, learnBurst), Minute: true}
	if six {
		all := s.ofNetwork(limit)
		return Chain{Name: "passing6", Rules: []Rule{
			rule("so many of each network, and of each host in it", v6, Note{Set: networks6, Field: SAddr6, Bits: 64, Limit: &all},
				Note{Set: learners6, Field: SAddr6, Limit: &limit}, Goto{"learn6"}),
		}}
	}
	return Chain{Name: "passing4", Rules: []Rule{
		rule("so many of each host", v4, Note{Set: learners4, Field: SAddr4, Limit: &limit}, Goto{"learn4"}),
	}}
}

// ofNetwork is the limit of a /64 of hosts, of each of which another one is given:
// what is learnt in a hold is a quarter of what there is room for, and a burst.
func (s Shield) ofNetwork(host Below) Below {
	room := uint32(hoodSize / 4 / max(s.Hold.Minutes(), 1))
	return Below{Rate: max(host.Rate, min(networkRate, room)), Burst: max(host.Burst, networkBurst), Minute: true}
}

// learning closes the neighbourhood of the address that is asked.
func learning(s Shield, six bool) Chain {
	name, family, to, trusted, own, bad := "learn4", v4, DAddr4, Trusted4, own4, unlearnt4
	if six {
		name, family, to, trusted, own, bad = "learn6", v6, DAddr6, Trusted6, own6, unlearnt6
	}
	c := Chain{Name: name, Rules: []Rule{
		rule("never of what is trusted", family, In{Fields: []Field{to}, Set: trusted}, Accept{}),
		rule("never around what is the host's own", family, In{Fields: []Field{to}, Set: own}, Accept{}),
	}}
	for _, p := range bad {
		c.Rules = append(c.Rules, rule("nobody's neighbourhood", family, Within{to, p}, Accept{}))
	}
	four, bits := s.Choices.Lengths()
	if !six {
		c.Rules = append(c.Rules, rule("closed from now on", family, Note{Set: learnt4, Field: to, Bits: four, Timeout: s.Hold}))
		return c
	}
	c.Rules = append(c.Rules,
		rule("the IPv4 neighbourhood in it", family, Within{to, nat64}, Note{Set: learnt64, Field: to, Bits: 96 + four, Timeout: s.Hold}, Accept{}),
		rule("closed from now on", family, Note{Set: learnt6, Field: to, Bits: bits, Timeout: s.Hold}))
	return c
}

// recalls look up what the kernel learnt by itself, in sets that count nothing.
func recalls(s Shield, six bool) []closing {
	if s.learns() == FromNothing {
		return nil
	}
	four, bits := s.Choices.Lengths()
	recall := func(field Field, bits int, set string) closing {
		in := In{Fields: []Field{field}, Bits: bits, Set: set}
		return closing{comment: "from a neighbourhood that was learnt", sieve: in, in: in, to: s.toOthers()}
	}
	if !six {
		return []closing{recall(SAddr4, four, learnt4)}
	}
	return []closing{recall(SAddr6, bits, learnt6), recall(SAddr6, 96+four, learnt64)}
}

// forward guards the hosts behind this one. What comes in from outside is never
// learnt from, nor is what stays inside: a stranger's forged query closes nothing.
func forward(s Shield) Chain {
	c := Chain{Name: "forward", Hook: &Hook{Name: "forward", Priority: -10}}
	for _, d := range s.Facts.Outside {
		c.Rules = append(c.Rules, rule("from outside", From{d}, Goto{"arriving"}))
	}
	if s.learns() != FromForward {
		return c
	}
	for _, d := range s.Facts.Outside {
		c.Rules = append(c.Rules,
			rule("an NTP query, by IPv6", append(append([]Expr{To{d}}, question(v6)...), Goto{"passing6"})...),
			rule("an NTP query, by IPv4", append(append([]Expr{To{d}}, question(v4)...), Goto{"passing4"})...))
	}
	return c
}

// arriving leaves what the host publishes under its own addresses to the chain of
// that, which knows the port that was published.
func arriving(s Shield) Chain {
	c := Chain{Name: "arriving", Rules: []Rule{rule("what a host behind us has begun", Known{}, Accept{})}}
	if s.Choices.Hooks == AtBoth {
		c.Rules = append(c.Rules, rule("published here, which is another chain's", Translated{}, Accept{}))
	}
	c.Rules = append(c.Rules, sieve(s, true, "transit6")...)
	c.Rules = append(c.Rules, sieve(s, false, "transit4")...)
	return c
}

// transit lets through what RFC 4890, section 4.3.1, says must not be dropped on
// its way. Neighbour discovery and multicast listeners are never on a way.
func transit(s Shield, six bool) Chain {
	name, family, trusted := "transit4", v4, In{Fields: []Field{SAddr4}, Set: Trusted4}
	errors := rule("errors", v4, Is{Transport, ICMP4}, OneOf{TypeICMP4, []uint16{3, 11, 12}}, Accept{})
	if six {
		name, family, trusted = "transit6", v6, In{Fields: []Field{SAddr6}, Set: Trusted6}
		errors = rule("errors and echo (RFC 4890)", v6, Is{Transport, ICMP6}, OneOf{TypeICMP6, []uint16{1, 2, 3, 4, 128, 129}}, Accept{})
	}
	c := Chain{Name: name, Rules: []Rule{errors, rule("trusted", family, trusted, Accept{})}}
	c.Rules = append(c.Rules, allowed(s, family)...)
	c.Rules = append(c.Rules, ends(s, six)...)
	return c
}

// leafed reports whether the host is one of those that serve nobody. A listed
// udp/123 says otherwise.
func (c Choices) leafed(allow []Service) bool {
	for _, a := range allow {
		if a.covers("udp", ntpPort) {
			return false
		}
	}
	return c.Leaf
}

// leaf is what RFC 8633, section 5.1, tells a host that serves nobody: to its port
// 123 comes nothing but the answers that it asked for.
func leaf(s Shield) Chain {
	c := Chain{Name: "leaf", Rules: []Rule{
		itself,
		rule("trusted", v6, In{Fields: []Field{SAddr6}, Set: Trusted6}, Accept{}),
		rule("trusted", v4, In{Fields: []Field{SAddr4}, Set: Trusted4}, Accept{}),
	}}
	if s.counts() {
		c.Rules = append(c.Rules, noting()...)
	}
	c.Rules = append(c.Rules, Rule{Exprs: end(s.Mode), Comment: say(s.Mode, "NTP that nobody here asked for")})
	return c
}

// learns is from what the kernel learns; without a hold from nothing, for an
// element without a timeout would stay for ever.
func (s Shield) learns() Learn {
	if s.Hold < time.Second {
		return FromNothing
	}
	return s.Choices.Learn
}
