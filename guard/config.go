package guard

import (
	"net/netip"
	"time"

	"ntpveil/rules"
)

// Config is a checked configuration: every value is in range, every default is
// filled in. Package config makes it from TOML.
type Config struct {
	Pools        []string // names, each giving many servers
	Servers      []Server // configured ones, each as its own server
	NTS          []Server // hosts of NTS key exchanges, with their ports
	AllowPrivate bool
	DHCP         string // "join" or "off": what is done with the servers that the network names
	Use          int    // servers to keep
	MinAgree     int    // fewer agreeing servers move nothing
	PollMin      time.Duration
	PollMax      time.Duration

	Observe       bool // clock.mode = "observe": the clock is not touched
	StepThreshold time.Duration
	StepWhen      string // "start", "always" or "never"
	MaxForward    time.Duration
	MaxBackward   time.Duration

	Rotate    string // "query", "server" or "off"
	Interface string // empty: the one that leads to the internet
	Keep      time.Duration
	MaxAddrs  int
	Control   int

	Shield       rules.Mode    // Enforce, Observe or Off
	Preset       string        // its name
	Choices      rules.Choices // what it says beyond the keys of [shield]
	Outside      []string      // devices behind which strangers are; empty: that of the default route
	Trusted      []netip.Prefix
	Allow        []rules.Service
	Hold         time.Duration
	Lists        []rules.List // of prefixes to block
	Owner        bool
	LogGroup     uint16
	IfImpossible string // "wait" or "ask-stable"
	Written      Written
	Plain        rules.Preset // the preset, without what [shield] says in place of its own

	Ledger string // path
	Socket string // path
}

// Written are the keys of [shield] that were written: they win over any preset's.
type Written struct{ Mode, Hold, Allow, Trusted, Owner, LogGroup bool }

// Server is a configured server: a name or an address, and a port.
type Server struct {
	Host string // as written, without the port
	Port uint16 // 123, or 4460 of a key exchange, where none was written
}
