package rules

import (
	"net/netip"
	"slices"
	"time"
)

// DefaultPreset is the one that holds where none was chosen. It says every key,
// so that a preset that extends nothing has a value for each.
const DefaultPreset = "workstation"

// Preset is a named set of rule choices.
type Preset struct {
	Name   string
	About  string // one line
	Origin string // the file it was read from; "built in"

	Mode     Mode // Enforce or Observe
	Hold     time.Duration
	Allow    []Service
	Trusted  []netip.Prefix
	Owner    bool
	LogGroup uint16
	Outside  []string // devices; empty: that of the default route
	Users    []string // names of the users that time daemons run as
	Choices  Choices
}

// Choices are what a preset says that changes the rules' shape. Its zero value is
// what the workstation has.
type Choices struct {
	Hood4, Hood6        int    // widest prefix length of a neighbourhood; 0: 24 and 48
	Hooks               Hooks  // where strangers are met
	Everyone            bool   // a perimeter: everyone is closed out, not neighbourhoods alone
	Listening           bool   // what a socket of the host listens for stays reachable
	Reject              bool   // what is closed is answered, not dropped
	Leaf                bool   // to UDP port 123 comes nothing but answers
	Silent              bool   // what is closed is counted, not logged
	LogRate, LogBurst   uint32 // of what is closed, a second; 0: 10 and 20
	Learn               Learn  // what the kernel learns by itself
	LearnRate, LearnMax uint32 // of one address behind this one: queries a minute that are learnt from, and in a burst; 0: 5 and 16
}

// Hooks are where strangers are met.
type Hooks uint8

// Hooks of presets.
const (
	AtInput   Hooks = iota // on their way to the host itself
	AtForward              // on their way through it
	AtBoth
)

// Learn is from which NTP queries the kernel learns neighbourhoods by itself.
type Learn uint8

// Ways to learn.
const (
	FromNothing Learn = iota // a daemon tells it
	FromOutput               // those of the host's own time daemons: no daemon of ours is needed
	FromForward              // those of hosts behind this one
)

// Facts are what of the host a preset needs to become rules.
type Facts struct {
	Outside []string       // devices that lead outside, sorted
	Users   []User         // those of the preset that there are, sorted by number
	Own     []netip.Prefix // what Choices.Own makes of the host's own: the kernel never learns a neighbourhood in there
	Near    []netip.Prefix // the host's own addresses, links, gateways and resolvers: no list blocks them
}

// User is a user of the host.
type User struct {
	Name string
	ID   uint32
}

// Shield is the rule set of a preset on a host, without an element.
func (p Preset) Shield(f Facts) Shield {
	if len(p.Outside) > 0 {
		f.Outside = slices.Compact(slices.Sorted(slices.Values(p.Outside)))
	}
	return Shield{
		Mode: p.Mode, Preset: p.Name, Owner: p.Owner, LogGroup: p.LogGroup,
		Allow: p.Allow, Trusted: p.Trusted, Hold: p.Hold, Choices: p.Choices, Facts: f,
	}
}

// Lengths are the prefix lengths of a neighbourhood.
func (c Choices) Lengths() (four, six int) { return or(c.Hood4, 24), or(c.Hood6, 48) }

// Own makes of the host's addresses, links, gateways and resolvers the prefixes in
// which no neighbourhood is learnt: as wide as a neighbourhood, since one that
// contains any of them has the same leading bits.
func (c Choices) Own(prefixes []netip.Prefix) []netip.Prefix {
	four, six := c.Lengths()
	var out []netip.Prefix
	for _, p := range prefixes {
		bits := six
		if p.Addr().Is4() {
			bits = four
		}
		out = append(out, netip.PrefixFrom(p.Addr(), min(bits, p.Bits())))
	}
	return Widest(out)
}

func or[T int | uint32](x, otherwise T) T {
	if x == 0 {
		return otherwise
	}
	return x
}

// limit bounds what is logged of what is closed.
func (c Choices) limit() Below {
	return Below{Rate: or(c.LogRate, logRate), Burst: or(c.LogBurst, logBurst)}
}

// Names and sizes of the table, whatever the preset.
const (
	TableName  = "ntpveil"
	Exposed6   = "exposed6"
	Solicited4 = "solicited4"
	Solicited6 = "solicited6"
	Keys4      = "keys4"
	Keys6      = "keys6"
	Probes6    = "probes6"
	Limits6    = "limits6"
	Others4    = "others4"
	Others6    = "others6"
	Hoods4     = "hoods4" // of /24; another length is appended, as in hoods4_28
	Hoods6     = "hoods6" // of /48
	sieve4     = "sieve4" // named as those are
	sieve6     = "sieve6"
	Trusted4   = "trusted4"
	Trusted6   = "trusted6"
	learnt4    = "learnt4" // what the kernel learnt by itself
	learnt6    = "learnt6"
	learnt64   = "learnt64" // NAT64 addresses (RFC 6052)
	learners4  = "learners4"
	learners6  = "learners6"
	networks6  = "networks6"
	own4       = "own4"
	own6       = "own6"
	near4      = "near4"
	near6      = "near6"
	blocked4   = "blocked4" // with the prefix length and what tells lists apart, as in blocked4_24_1f3a9c02
	blocked6   = "blocked6"

	// Elements outlive their address by a day: at the shortest poll four servers
	// make 5900 of them, and sixteen whose addresses are kept a day make 43,200.
	// Of those fewer are probed: what does not fit is dropped all the same.
	exposedSize   = 65536
	probedSize    = 16384
	solicitedSize = 1024
	hoodSize      = 65536 // of what the kernel learns
	closedSize    = 4096  // of what a daemon closes, 256 at most, and what a run before it left; the kernel's table grows with it

	// A flood to one address must not hide a slow probe of another, so the limiter
	// is per address: a flood of 500 k packets became 33 events.
	logRate, logBurst = 10, 20
	limitsKept        = time.Minute
	// Counts of an address live as long as its guard, and those of others as long.
	probesKept = 25 * time.Hour
	// Enough for IPv6, two extension headers and a transport header.
	snaplen = 128

	// Four servers asked every 64 s are 4 queries a minute. What one address can add
	// in a hold of 15 minutes is 16 + 5·15 = 91 prefixes; all of a /64 of IPv6, in
	// which a host has as many addresses as it likes, 1000 + 300·15 = 5500.
	learnRate, learnBurst     = 5, 16
	networkRate, networkBurst = 300, 1000
	learnersKept              = 10 * time.Minute // either burst has filled up again by then

	// PrefixProbe and PrefixHood start the log messages of packets to a throw-away
	// address and from a closed neighbourhood.
	PrefixProbe = "probe "
	PrefixHood  = "hood "
)
