package timeworld

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Profile is what kind of network and servers a world has.
type Profile struct {
	Name   string
	build  func(r *rand.Rand, s *server)
	Wander float64                   // of the crystal, s/s in a second
	busy   func(r *rand.Rand) []load // the hours in which the uplink is loaded; nil: none
}

// Profiles are those of the bench: a network at hand, one far away, a bad radio,
// a line that is loaded one way, several parallel ways, servers that disagree.
var Profiles = []Profile{
	{Name: "LAN", build: lan, Wander: 1e-9},
	{Name: "WAN", build: wan, Wander: 1e-9},
	{Name: "Wi-Fi", build: wifi, Wander: 1e-9},
	{Name: "loaded", build: wan, Wander: 1e-9, busy: busy},
	{Name: "ECMP", build: ecmp, Wander: 1e-9},
	{Name: "disagree", build: disagree, Wander: 1e-9},
}

func profile(name string) (Profile, bool) {
	i := slices.IndexFunc(Profiles, func(p Profile) bool { return p.Name == name })
	if i < 0 {
		return Profile{}, false
	}
	return Profiles[i], true
}

// far makes a way of a round trip; the two directions differ by a hundredth of it
// in the deviation.
func far(r *rand.Rand, trip, queue float64) way {
	skewed := 0.01 * trip * r.NormFloat64()
	return way{there: trip/2 + skewed, back: trip/2 - skewed, queue: queue, shape: 1}
}

func lan(r *rand.Rand, s *server) {
	s.way = far(r, 0.2e-3, 10e-6)
	s.rootDelay, s.rootDisp, s.err = time.Millisecond, time.Millisecond, 5e-6*r.NormFloat64()
}

// wan has a round trip of 20 ms, and queues that add 2 ms to it in the mean.
func wan(r *rand.Rand, s *server) {
	s.way = far(r, 20e-3, 1e-3)
	s.way.loss = 0.005
	s.rootDelay, s.rootDisp, s.err = 10*time.Millisecond, 5*time.Millisecond, 50e-6*r.NormFloat64()
}

func wifi(r *rand.Rand, s *server) {
	wan(r, s)
	s.way.queue, s.way.shape, s.way.retry, s.way.loss = 5e-3, 0.5, 0.15, 0.08
}

// busy are the hours of a day in which a queue of up to 80 ms stands on the uplink
// that all servers are behind: it rises for an hour, once in four.
func busy(r *rand.Rand) []load {
	var out []load
	for i := range 6 {
		from := 30*time.Minute + time.Duration(i)*4*time.Hour + time.Duration(r.Int64N(int64(2*time.Hour)))
		out = append(out, load{from: from, length: time.Hour, peak: 80e-3})
	}
	return out
}

func ecmp(r *rand.Rand, s *server) {
	wan(r, s)
	for range 4 {
		s.way.lanes = append(s.way.lanes, 5e-3*r.Float64())
	}
}

// disagree has servers that are off by some milliseconds, and say so.
func disagree(r *rand.Rand, s *server) {
	wan(r, s)
	s.rootDisp, s.err = 15*time.Millisecond, 8e-3*(r.Float64()-0.5)
}
