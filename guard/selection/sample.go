package selection

import (
	"net/netip"
	"time"
)

// Sample is the outcome of one exchange with one server (RFC 5905, section 8).
// Durations are in nanoseconds; a positive Offset means that the server is ahead
// of the host's clock.
type Sample struct {
	Server     netip.AddrPort
	At         time.Duration // CLOCK_MONOTONIC since boot, at the arrival of the reply
	Offset     time.Duration
	Delay      time.Duration // round trip, never negative
	Dispersion time.Duration // of this measurement: both precisions and the drift over the exchange
	RootDelay  time.Duration // the server's own, as it claims
	RootDisp   time.Duration
	Stratum    uint8 // 1..15
	Leap       uint8 // 0..2; a server that is unsynchronised (3) yields no sample
	RefID      uint32
	Precision  time.Duration
}

// RootDistance is the largest error that the sample can have, by the server's
// word and our own measurement (RFC 5905, section 11.1). Values that no exchange
// yields do not overflow: negative ones count as nothing, huge ones as 24 years.
func (s Sample) RootDistance() time.Duration {
	return bounded(s.RootDelay)/2 + bounded(s.RootDisp) + bounded(s.Delay)/2 + bounded(s.Dispersion)
}

// bounded leaves room to add eight of them.
func bounded(d time.Duration) time.Duration { return min(max(d, 0), 1<<59) }
