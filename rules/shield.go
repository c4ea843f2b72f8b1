package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Mode says what the shield's verdicts do.
type Mode uint8

const (
	Off      Mode = iota // no table at all
	Enforce              // what must be dropped is dropped
	Observe              // everything is counted and logged, nothing is dropped
	Disarmed             // as Observe, by an admin's order and for a time
)

var modeNames = [...]string{"off", "enforce", "observe", "disarmed"}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// Drops reports whether the rules end in a drop.
func (m Mode) Drops() bool { return m == Enforce }

// Shield is everything the kernel is asked to enforce, as one comparable-by-value
// wish. The zero value means that no table is wanted. All deadlines are readings
// of CLOCK_MONOTONIC since boot, the clock that element timeouts run on.
type Shield struct {
	Mode     Mode
	Preset   string   // name of the preset, kept in the table's comment
	Owner    bool     // table flags owner and persist
	LogGroup uint16   // NFLOG group of probes
	Devices  []string // network devices whose ingress hook guards the throw-away addresses, sorted
	Allow    []Service
	Trusted  []netip.Prefix // never closed, either family
	Hold     time.Duration  // how long what the kernel learns by itself stays closed
	Choices  Choices        // of the preset
	Facts    Facts          // of the host, that these need
	Lists    []List         // of prefixes to block, in the order in which they were configured

	Exposed   []Exposed   // sorted by address
	Solicited []Solicited // sorted (Compare)
	Hoods     []Hood      // sorted by prefix
	Others    Others      // only in what was seen
}

// Others are those whose packets were dropped, or would have been, for another
// reason than a server that the daemon asked: a perimeter, a list, what the kernel
// learnt, or that nobody asked for the NTP in them.
type Others struct {
	Dropped uint64  // packets of all that are remembered
	Most    []Other // most first, at most MostOthers
}

// MostOthers is how many of them are told one by one.
const MostOthers = 100

// Other is a network, a /24 or a /48: an element of set others4 or others6.
type Other struct {
	Prefix  netip.Prefix
	Dropped uint64 // packets
}

// Exposed is one throw-away address under guard: an element of set exposed6.
type Exposed struct {
	Addr    netip.Addr
	Until   time.Duration // a day after the address's own end; never shortened
	Dropped uint64        // packets that the guard dropped; only in what was seen, 0 in a wish
}

// Solicited is the one exchange that may cross the guard: an element of set
// solicited6 or solicited4 or, for an NTS key exchange, of keys6 or keys4.
type Solicited struct {
	Server netip.AddrPort
	Our    netip.AddrPort
	TCP    bool          // an NTS key exchange; else NTP over UDP
	Until  time.Duration // 3 s after the latest end of the exchange
}

// Compare orders by our address and port, then the server's, then the protocol.
func (x Solicited) Compare(y Solicited) int {
	proto := map[bool]int{true: 1}
	return cmp.Or(x.Our.Compare(y.Our), x.Server.Compare(y.Server), proto[x.TCP]-proto[y.TCP])
}

// Hood is a closed neighbourhood: an element of hoods4 or hoods6 (or of the set
// of its prefix length, where that is not the default of /24 and /48).
type Hood struct {
	Prefix  netip.Prefix // masked
	Server  netip.Addr   // whose neighbourhood it is; the element's comment
	Until   time.Duration
	Dropped uint64 // packets; only in what was seen, 0 in a wish
}

// Equal reports whether two wishes are the same.
func (s Shield) Equal(o Shield) bool {
	return s.Mode == o.Mode && s.Preset == o.Preset && s.Owner == o.Owner && s.LogGroup == o.LogGroup &&
		slices.Equal(s.Devices, o.Devices) && slices.Equal(s.Allow, o.Allow) && slices.Equal(s.Trusted, o.Trusted) &&
		s.Hold == o.Hold && s.Choices == o.Choices && s.Facts.equal(o.Facts) &&
		slices.Equal(s.Exposed, o.Exposed) && slices.Equal(s.Solicited, o.Solicited) && slices.Equal(s.Hoods, o.Hoods) &&
		equalLists(s.Lists, o.Lists)
}

func (f Facts) equal(o Facts) bool {
	return slices.Equal(f.Outside, o.Outside) && slices.Equal(f.Users, o.Users) && slices.Equal(f.Own, o.Own) && slices.Equal(f.Near, o.Near)
}

// Clone is a copy that shares nothing.
func (f Facts) Clone() Facts {
	return Facts{Outside: slices.Clone(f.Outside), Users: slices.Clone(f.Users), Own: slices.Clone(f.Own), Near: slices.Clone(f.Near)}
}
