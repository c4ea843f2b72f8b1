package clockbench

import (
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Profile is a kind of way from the host to its servers.
type Profile struct {
	Name   string
	About  string
	Delay  time.Duration // the least, each way
	Jitter time.Duration // beyond that, each way: the mean of an exponential distribution
	Loss   float64       // each way
	Busy   Busy
	Spread time.Duration // ECMP: what a path, chosen by source and server, adds to each way, at most
	Bias   time.Duration // deviation of the servers' own constant errors
	Lie    time.Duration // what the last server adds
	Still  bool          // the trajectory neither wanders nor leaps
}

// Busy is what happens to a way from time to time.
type Busy struct {
	For, Every  time.Duration // means; Every is from the end of one to the next
	There, Back time.Duration // means of what queues add
	Loss        float64
}

const ms = time.Millisecond

// Floor is the rig alone.
var Floor = Profile{Name: "floor", About: "0.2 ms there and back, no jitter, a steady frequency: the rig itself", Delay: ms / 10, Still: true}

// Profiles are those of the table.
var Profiles = []Profile{
	{Name: "LAN", About: "0.2 ms there and back, 20 µs of jitter", Delay: ms / 10, Jitter: ms / 100, Bias: time.Microsecond},
	{Name: "WAN", About: "20 ms there and back, 2 ms of jitter", Delay: 10 * ms, Jitter: ms, Bias: ms / 10},
	{Name: "bad Wi-Fi", About: "20 ms, 6 ms of jitter, 3 % lost; a third of the time 40 ms more there, 20 ms back, 15 % lost",
		Delay: 10 * ms, Jitter: 3 * ms, Loss: 0.03, Bias: ms / 10,
		Busy: Busy{For: 20 * time.Second, Every: 40 * time.Second, There: 40 * ms, Back: 20 * ms, Loss: 0.15}},
	{Name: "asymmetric load", About: "WAN; half of the time, some minutes on end, an upload adds 40 ms there",
		Delay: 10 * ms, Jitter: ms, Bias: ms / 10,
		Busy: Busy{For: 3 * time.Minute, Every: 3 * time.Minute, There: 40 * ms}},
	{Name: "ECMP", About: "20 ms, 0.4 ms of jitter; source and server choose paths that add 0 to 1 ms each way",
		Delay: 10 * ms, Jitter: ms / 5, Spread: ms, Bias: ms / 10},
	{Name: "disagreeing", About: "WAN; one of four servers is 50 ms off, the others by 1 ms (RMS)",
		Delay: 10 * ms, Jitter: ms, Bias: ms, Lie: 50 * ms},
}

// Servers is how many each world has, MinAgree how many must agree.
const (
	Servers  = 4
	MinAgree = 3
)

// way is the one between a host and one server, for one client. It is not safe
// for concurrent use.
type way struct {
	Profile
	rnd  *rand.Rand
	seed uint64
	busy *busy
}

// trip is what happens to one exchange.
type trip struct {
	there, back time.Duration
	lost        bool // on the way there
	lostBack    bool
}

// draw is what happens to an exchange that begins some time after the world did.
func (w *way) draw(since time.Duration, from, to netip.Addr) trip {
	t := trip{there: w.Delay + w.exp(w.Jitter), back: w.Delay + w.exp(w.Jitter)}
	lost := w.Loss
	if w.busy.at(since) {
		t.there += w.exp(w.Busy.There/2) + w.exp(w.Busy.There/2)
		t.back += w.exp(w.Busy.Back/2) + w.exp(w.Busy.Back/2)
		lost += w.Busy.Loss
	}
	path := w.path(from, to)
	t.there += time.Duration(path.Float64() * float64(w.Spread))
	t.back += time.Duration(path.Float64() * float64(w.Spread))
	t.lost, t.lostBack = w.rnd.Float64() < lost, w.rnd.Float64() < lost
	return t
}

func (w *way) exp(mean time.Duration) time.Duration {
	return time.Duration(w.rnd.ExpFloat64() * float64(mean))
}

// path is what the routers on the way make of two addresses.
func (w *way) path(from, to netip.Addr) *rand.Rand {
	h := fnv.New64a()
	h.Write(from.AsSlice())
	h.Write(to.AsSlice())
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// busy are the times at which a way is busy: in, out, in, and so on.
type busy struct{ turns []time.Duration }

// times draws them; all ways of a world share them, as those through one access link do.
func (b Busy) times(rnd *rand.Rand, length time.Duration) *busy {
	out := new(busy)
	if b.For == 0 {
		return out
	}
	means := [2]time.Duration{b.Every, b.For}
	at := time.Duration(0)
	for i := 0; at < length; i++ {
		at += time.Duration(rnd.ExpFloat64() * float64(means[i%2]))
		out.turns = append(out.turns, at)
	}
	return out
}

func (b *busy) at(t time.Duration) bool {
	n := 0
	for n < len(b.turns) && b.turns[n] <= t {
		n++
	}
	return n%2 == 1
}
