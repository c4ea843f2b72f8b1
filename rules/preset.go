package rules

import "time"

// Preset is a named set of rule choices.
type Preset struct {
	Name  string
	Hood4 int // prefix length of an IPv4 neighbourhood
	Hood6 int // prefix length of an IPv6 neighbourhood
}

// Workstation is the preset for a host that offers next to nothing to strangers.
var Workstation = Preset{Name: "workstation", Hood4: 24, Hood6: 48}

// Names and sizes of the table, whatever the preset.
const (
	TableName  = "ntpveil"
	Exposed6   = "exposed6"
	Solicited4 = "solicited4"
	Solicited6 = "solicited6"
	Probes6    = "probes6"
	Limits6    = "limits6"
	Hoods4     = "hoods4" // of Workstation.Hood4; another length is appended, as in hoods4_28
	Hoods6     = "hoods6"
	Trusted4   = "trusted4"
	Trusted6   = "trusted6"

	// Elements outlive their address by a day: at the shortest poll four servers
	// make 5900 of them, and sixteen whose addresses are kept a day make 43,200.
	// Of those fewer are probed: what does not fit is dropped all the same.
	exposedSize   = 65536
	probedSize    = 16384
	solicitedSize = 1024
	hoodSize      = 65536

	// A flood to one address must not hide a slow probe of another, so the limiter
	// is per address: a flood of 500 k packets became 33 events.
	logRate, logBurst = 10, 20
	limitsKept        = time.Minute
	// Counts of an address live as long as its guard.
	probesKept = 25 * time.Hour
	// Enough for IPv6, two extension headers and a transport header.
	snaplen = 128

	// PrefixProbe and PrefixHood start the log messages of packets to a throw-away
	// address and from a closed neighbourhood.
	PrefixProbe = "probe "
	PrefixHood  = "hood "
)
