package guard

import (
	"net/netip"
	"slices"
	"time"

	"ntpveil/rules"
)

// Instant is when something happened. The daemon makes it in one function; the
// core never asks for the time.
type Instant struct {
	Mono time.Duration // CLOCK_MONOTONIC since boot: every deadline is a reading of it
	Boot time.Duration // CLOCK_BOOTTIME since boot: Boot-Mono grew = the host slept
	Wall time.Time     // CLOCK_REALTIME: Wall-Boot changed, and not by our own Fix = a step by somebody else
}

// Key names one job, correction, record or order. It is started at most once;
// once it has left the plan it never comes back. 0 means none.
type Key uint64

// Plan is everything the world is asked to be after one Step.
//
// Kernel is state: the latest wish wins and applying it twice changes nothing.
// Lookups, Keyings and Asks are jobs: begun once, absent means cancelled, one ending
// event each. Records stay until they are acknowledged by Recorded. Fix and Save
// happen once a key.
type Plan struct {
	Kernel  Kernel
	Fix     Fix
	Save    Save
	Lookups []Lookup
	Keyings []Keying
	Asks    []Ask // here = the socket is open, which is until 3 s after the answer
	Records []Record
	Replies []Reply       // ends of orders, each in exactly one plan
	Wake    time.Duration // Mono at which to Step(Woke); 0: never
	Done    bool          // an ordered stop is complete: everything of ours is gone
}

// Kernel is the kernel's part of the plan, and of what was seen. One worker
// makes it true: grow the shield, change the addresses, shrink the shield,
// stopping at the first error.
type Kernel struct {
	Act    bool // a wish: whether anything may be changed yet; until then the worker only looks
	Shield rules.Shield
	Addrs  []Addr // sorted by address
}

// Equal reports whether two wishes are the same.
func (k Kernel) Equal(o Kernel) bool {
	return k.Act == o.Act && k.Shield.Equal(o.Shield) && slices.Equal(k.Addrs, o.Addrs)
}

// Addr is one throw-away address, always a /128 that is born deprecated.
type Addr struct {
	Addr  netip.Addr
	Link  int           // interface index
	Until time.Duration // Mono: end of its valid lifetime
	Meet  netip.Addr    // the gateway: the address is ready when DAD is done and this one answered our solicitation; invalid: DAD alone
}

// Fix is one correction of the clock. Zero Key: none is wanted.
type Fix struct {
	Key   Key
	Step  time.Duration // added to the clock at once
	Slew  time.Duration // added gradually, by means that end by themselves:
	Over  int           // each second 2^-(2+Over) of what is left of it, the time constant of the kernel's PLL
	Error time.Duration // root distance after it: the kernel's maxerror and esterror
	Sync  bool          // whether STA_UNSYNC is cleared
	Leap  int           // as in the NTP header: 0 none, 1 insert, 2 delete

	Frequency float64 // ppm by which the kernel is to make its clock faster
	Before    float64 // ppm that it makes now; where it does not, another program steers, and nothing is done
	TakeOver  bool    // do it even so
}

// Save keeps the clock for the next boot. Zero Key: there is nothing to do.
type Save struct {
	Key    Key
	Synced bool // the clock is right: one that was saved ahead of it goes back, and others are told that it was synchronised
}

// Ask is one exchange with a server.
type Ask struct {
	Key      Key
	From, To netip.AddrPort // the port is drawn by the core: it is in the shield already
	By       time.Duration  // Mono: the latest end of the exchange
	Device   string         // the interface to leave by; empty: as the routes say
	NTS      *NTS           // what protects it; nil: a plain one
	pass     pass           // made only in gate.go
}

// Keying is one NTS key exchange (RFC 8915 section 4).
type Keying struct {
	Key      Key
	From, To netip.AddrPort
	Name     string        // that the certificate is to be of
	By       time.Duration // Mono: the latest end of the exchange
	Floor    time.Time     // certainly past, where the clock is certainly wrong and judges no certificate; else zero
	Device   string        // the interface to leave by; empty: as the routes say
	pass     pass          // made only in gate.go
}

// Lookup asks for the addresses of a name.
type Lookup struct {
	Key  Key
	Name string
	By   time.Duration // Mono
}

// Record is one line for the journal or the ledger; it stays in the plan until
// it is acknowledged by Recorded. Keys of records ascend.
type Record struct {
	Key  Key
	Kind Kind
	At   time.Time // wall clock
	Text string    // for a person; for the journal

	// What the ledger keeps, by Kind; nil where the kind does not concern it.
	Exposure *ExposureRecord
	Server   *ServerRecord
	Pool     *PoolRecord
	Clock    *ClockRecord
	NTS      *NTSRecord
	Rules    *RulesRecord
}

// Kept reports whether the ledger has to do with a record.
func (r Record) Kept() bool {
	return r.Exposure != nil || r.Server != nil || r.Pool != nil || r.Clock != nil || r.NTS != nil || r.Rules != nil
}

// Kind says what a record is about.
type Kind string

const (
	KindExposure Kind = "exposure" // made, changed or (Exposure.Gone) over
	KindServer   Kind = "server"   // a server's place, bucket or back-off changed
	KindPool     Kind = "pool"     // a pool's answers changed
	KindClock    Kind = "clock"    // the clock was corrected
	KindKeys     Kind = "keys"     // NTS keys were agreed on or dropped, or a cookie was used
	KindShield   Kind = "shield"   // armed, lost, disarmed, impossible; a preset was applied, confirmed or rolled back
	KindNotice   Kind = "notice"   // journal only: something an admin would want to read
)

// ExposureRecord is an exposure as the ledger keeps it, keyed by Addr and Server.
type ExposureRecord struct {
	Addr         netip.Addr `json:"addr"`
	Link         int        `json:"link"`
	Interface    string     `json:"interface"`
	Kind         string     `json:"kind"` // throw-away, stable or control
	Server       netip.Addr `json:"server"`
	Port         uint16     `json:"port"`
	AskedAt      time.Time  `json:"asked_at"` // zero: not asked yet
	ExistsUntil  time.Time  `json:"exists_until"`
	GuardedUntil time.Time  `json:"guarded_until"`
}

// ServerRecord is a server as the ledger keeps it, keyed by Addr (with its port).
type ServerRecord struct {
	Addr        netip.AddrPort `json:"addr"`
	Name        string         `json:"name"`
	Pool        string         `json:"pool"` // empty: configured
	Chosen      bool           `json:"chosen"`
	Tokens      float64        `json:"tokens"`       // of the bucket of its /64, at TokensAt
	TokensAt    time.Time      `json:"tokens_at"`    //
	Rate        int            `json:"rate"`         // RATE back-off: the poll interval is at least 64 s << Rate
	DeniedUntil time.Time      `json:"denied_until"` // DENY or RSTR
}

// PoolRecord is when a pool name was last resolved.
type PoolRecord struct {
	Name     string    `json:"name"`
	Resolved time.Time `json:"resolved"`
}

// ClockRecord is how far we moved the clock in this boot.
type ClockRecord struct {
	BootID            string        `json:"boot_id"`
	Forward, Backward time.Duration // sums of steps and slews, both positive
	Wild              bool          `json:"wild"` // the one unlimited way forward was used
	CorrectedAt       time.Time     `json:"corrected_at"`
	Frequency         float64       `json:"frequency_ppm"` // that the kernel was given
	Skew              float64       `json:"skew_ppm"`      // its standard deviation; 0: nothing was learnt
	Dead              bool          `json:"dead"`          // at boot it was before what had been saved, and was not corrected yet

	Step time.Duration `json:"step,omitzero"` // that is about to be made and not in the sums yet: by a clock
	Boot time.Time     `json:"boot,omitzero"` // that showed this when the host booted
}

// NTSRecord is what a key exchange left, as the ledger keeps it, keyed by Name.
// Nothing else has it: no journal, no status.
type NTSRecord struct {
	Name    string         `json:"name"`   // host:port of time.nts
	Server  netip.AddrPort `json:"server"` // who is asked
	At      netip.AddrPort `json:"at"`     // where keys were exchanged
	Keys    NTSKeys        `json:"keys"`
	Cookies []Secret       `json:"cookies"` // not used yet
	Used    []uint64       `json:"used"`    // what tells the last ones that were: a server may give one again
	Made    time.Time      `json:"made"`
	Place   string         `json:"place"` // the network that they were got in
}

// RulesRecord is the preset that an admin applied in this boot. The rules of a
// preset are kept as its text: its file may be another one by then.
type RulesRecord struct {
	BootID  string        `json:"boot_id"`
	Now     PresetRecord  `json:"now"`     // zero: what the configuration says
	Before  PresetRecord  `json:"before"`  // what a revert brings back; zero: there is nothing to revert
	Kept    bool          `json:"kept"`    // before was applied, too
	Until   time.Duration `json:"until"`   // Mono: rolled back then; 0: confirmed
	At      time.Duration `json:"at"`      // Boot: when it was applied
	Session string        `json:"session"` // from where
}

// PresetRecord is a preset as the ledger keeps it.
type PresetRecord struct {
	Name string `json:"name"`
	Text string `json:"text"` // TOML, every key

	// Plain is the same without what [shield] said; empty: nothing was applied.
	Plain string `json:"plain,omitempty"`
}

// Reply ends an order.
type Reply struct {
	Key Key
	Err string // empty: done
}
