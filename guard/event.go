package guard

import (
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard/selection"
	"ntpveil/rules"
)

// Event is something that happened outside: a whole state that was seen, the end
// of a job, or a message.
type Event interface{ event() }

type (
	// Configured brings a checked configuration, at start and on reload.
	Configured struct{ Config Config }

	// Restored brings what the ledger remembers. With Err it cannot
	// be written, or not all of it could be read; the Snapshot is what could be.
	Restored struct {
		Ledger Snapshot
		Err    error
	}

	// HostSeen brings the facts of the host.
	HostSeen struct{ Host Host }

	// KernelSeen brings what is in force, never what was done.
	KernelSeen struct {
		Kernel  Kernel        // addresses: every one of our shape (a /128, deprecated, no prefix route, finite lifetime), whoever made it
		Ready   []netip.Addr  // those that may be asked from
		Culprit string        // the shield was lost since the last report, and this is who did it
		OffFor  time.Duration // how long it was off, where Culprit is set
		Err     error         // the first thing that could not be done with the shield
		AddrErr error         // the same of the addresses
		ListErr error         // the same of the lists of blocked prefixes
	}

	// ClockSeen ends a Fix; without a key it brings what was found at start.
	ClockSeen struct {
		Key       Key
		At        Instant       // when it was made, by the clocks as they were then; zero: now
		Made      time.Duration // what was stepped
		Frequency float64       // ppm by which the kernel makes its clock faster
		Synced    bool          // at start: it was synchronised in this boot already, and may still count as that
		Right     bool          // at start: the kernel calls it synchronised, so that nobody stepped it since it was
		LocalRTC  bool          // the hardware clock holds local time, so that the kernel's stays marked as not synchronised
		Saved     time.Time     // at start: when the clock was last saved; zero: never
		Epoch     time.Time     // at start: what the vendor or the admin says is past; zero: nothing
		Err       error
	}

	// Saved ends a Save.
	Saved struct {
		Key Key
		Err error
	}

	// Resolved ends a Lookup.
	Resolved struct {
		Key   Key
		Addrs []netip.Addr
		Err   error
	}

	// Answered ends an Ask, exactly once.
	Answered struct {
		Key    Key
		Sample selection.Sample
		Kiss   string // the kiss code of a kiss-o'-death with a valid origin, else empty
		Err    error

		// Of a protected exchange.
		Cookies []Secret // that came with the answer, never used before
		NAK     bool     // nobody's answer was valid, and somebody who saw the query says that its cookie is not
	}

	// Keyed ends a Keying.
	Keyed struct {
		Key     Key
		Keys    NTSKeys
		Cookies []Secret
		Host    string // where to ask, a name or an address; empty: the host of the key exchange
		Port    uint16
		Err     error
	}

	// Recorded acknowledges every record up to a key. With Err they were not
	// written and stay in the plan.
	Recorded struct {
		Upto Key
		Err  error
	}

	// Ordered is an admin's wish: sync, step, disarm, arm, apply, confirm, revert or
	// stop; or leave: who wished for what has that key waits no longer.
	Ordered struct {
		Key     Key
		Verb    string
		For     time.Duration // disarm; apply: how long a confirmation is waited for, 0: none is needed
		Preset  rules.Preset  // apply: with what [shield] says in place of its own
		Plain   rules.Preset  // apply: without
		Lists   []rules.List  // apply: those of the configuration, as their files are now
		Session Session       // apply, confirm, revert
	}

	// Woke tells that Plan.Wake has come.
	Woke struct{}
)

func (Configured) event() {}
func (Restored) event()   {}
func (HostSeen) event()   {}
func (KernelSeen) event() {}
func (ClockSeen) event()  {}
func (Saved) event()      {}
func (Resolved) event()   {}
func (Answered) event()   {}
func (Keyed) event()      {}
func (Recorded) event()   {}
func (Ordered) event()    {}
func (Woke) event()       {}

// Snapshot is what the ledger remembers.
type Snapshot struct {
	Exposures []ExposureRecord
	Servers   []ServerRecord
	Pools     []PoolRecord
	Clock     ClockRecord
	NTS       []NTSRecord
	Rules     RulesRecord
}

// Host is what the core needs to know of the host, as one whole state.
type Host struct {
	BootID    string
	Link      Link           // the interface that queries leave by; zero Index: there is none
	Addrs     []netip.Addr   // every address of every interface, ours included
	LinkAddrs []netip.Addr   // every IPv6 address of Link, link-local and ours included
	Preferred []netip.Addr   // on Link: global IPv6 addresses with a preferred lifetime left, ours never among them
	Prefix    netip.Prefix   // a /64 on Link (advertised or configured) to make throw-away addresses in; invalid: none
	NoPrefix  string         // why Prefix is invalid
	OnLink    []netip.Prefix // prefixes that are on a link of the host
	Source4   netip.Addr     // the stable source that the kernel picks towards the internet; invalid: no IPv4
	Source6   netip.Addr     // the same for IPv6, never one of ours
	Gateway4  netip.Addr     // of the way to the internet; invalid: none
	Gateway6  netip.Addr     // usually link-local, without zone
	Route4    bool           // there is a way to the internet by IPv4
	Route6    bool
	Gateways  []netip.Addr // every gateway of every route
	Resolvers []netip.Addr // of /etc/resolv.conf
	NTP       []netip.Addr // time servers that the network names
	Peers     []netip.Addr // far ends of established TCP sessions
	MaxAddrs  int          // net.ipv6.conf.LINK.max_addresses; 0: no limit
	Devices   []string     // every device that can receive a packet from outside, sorted
}

// Link is one network interface.
type Link struct {
	Index    int
	Name     string
	Wireless bool
	Tunnel   bool // a tunnel or point-to-point link: no throw-away addresses on it
}

// OwnPrefixes are the host's addresses, links, gateways and resolvers.
func (h Host) OwnPrefixes() []netip.Prefix {
	out := slices.Clone(h.OnLink)
	for _, a := range slices.Concat(h.Addrs, h.Gateways, h.Resolvers) {
		if a = a.WithZone("").Unmap(); !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}
