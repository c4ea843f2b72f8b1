package guard

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// Guard decides. It owns no goroutine, socket, file, clock or logger, and is
// not safe for concurrent use: one goroutine steps it.
type Guard struct {
	now  Instant
	rng  *rand.Rand
	last Key           // the newest key given out
	wake time.Duration // the earliest deadline that the last pass looked at

	conf       Config
	configured bool
	restored   bool
	adopted    bool
	build      time.Time // no clock is ever set before it
	started    time.Duration

	host     Host
	hostSeen bool
	network  network // what of the host a change of network is judged by

	seen      Kernel
	seenReady map[netip.Addr]bool
	seenOnce  bool
	seenErr   error         // of the shield
	addrErr   error         // of the addresses
	errLogged time.Duration // when the impossible shield was last said
	losses    losses        // of the shield
	listSaid  string        // what was last said of lists that are not in force; empty: they are

	sources   []*source
	servers   []*server
	buckets   map[netip.Prefix]*bucket
	addresses []*address
	queries   []*query
	hoods     []*hood

	round  round
	clock  clock
	saved  saved
	ledger ledger
	orders orders

	applied applied
}

// far is farther than anything that is counted, and four of it are a Duration.
const far = 1 << 60 * time.Nanosecond

// Bounds of everything that the outside can make grow.
const (
	maxCandidates = 64   // answers kept of one name
	maxServers    = 32   // servers without a place that are remembered, and besides
	maxLimited    = 256  // those of them that set limits
	maxAddresses  = 4096 // exposures remembered, dead ones included
	maxHoods      = 256
	maxRecords    = 1024
	maxSamples    = 8
	maxOrders     = 16
)

// New makes a Guard. The seed is what interface IDs, ports and jitter are drawn
// from: 32 bytes from the system's random source. build is the date of the
// build, before which no clock is ever set.
func New(seed [32]byte, build time.Time) *Guard {
	return &Guard{
		rng:       rand.New(rand.NewChaCha8(seed)),
		build:     build,
		buckets:   map[netip.Prefix]*bucket{},
		seenReady: map[netip.Addr]bool{},
		clock:     clock{stepAllowed: true},
		ledger:    ledger{keys: map[string]NTSRecord{}},
	}
}

// Step absorbs an event, advances to a fixed point and derives the whole plan.
// The plan shares no memory with the Guard.
func (g *Guard) Step(at Instant, ev Event) Plan {
	g.tick(at)
	g.absorb(ev)
	for range 32 { // a chain of consequences is a handful of passes long; the bound is for what nobody thought of
		if !g.advance() {
			break
		}
	}
	return g.plan()
}

// tick moves the time on. A monotonic clock that stands or runs back is held.
func (g *Guard) tick(at Instant) {
	slept := (at.Boot - at.Mono) - (g.now.Boot - g.now.Mono)
	stepped := at.Wall.Sub(g.now.Wall) - (at.Boot - g.now.Boot)
	first := g.now == Instant{}
	at.Mono = max(at.Mono, g.now.Mono)
	before := g.now.Wall
	g.now = at
	if first {
		g.started = at.Mono
		return
	}
	g.watchTime(slept, stepped-g.leapSecond(before, slept, stepped))
}

func (g *Guard) absorb(ev Event) {
	switch ev := ev.(type) {
	case Configured:
		g.configure(ev.Config)
	case Restored:
		g.restore(ev)
	case HostSeen:
		g.seeHost(ev.Host)
	case KernelSeen:
		g.seeKernel(ev)
	case ClockSeen:
		g.seeClock(ev)
	case Saved:
		g.seeSave(ev)
	case Resolved:
		g.resolved(ev)
	case Answered:
		g.answered(ev)
	case Keyed:
		g.keyed(ev)
	case Recorded:
		g.recorded(ev)
	case Ordered:
		g.order(ev)
	case Woke:
	}
}

// advance does every consequence that is due, once; it reports whether any of
// them may have made another one due.
func (g *Guard) advance() bool {
	g.wake = 0
	if !g.configured || !g.restored || !g.seenOnce || !g.hostSeen || !g.clock.steer.found {
		return g.advanceOrders()
	}
	changed := g.adopt()
	changed = g.advanceSources() || changed
	changed = g.choose() || changed
	changed = g.advanceKeys() || changed
	changed = g.advanceRound() || changed
	changed = g.advanceAddresses() || changed
	changed = g.advanceQueries() || changed
	changed = g.judgeRound() || changed
	changed = g.advanceHoods() || changed
	changed = g.advanceShield() || changed
	changed = g.advanceApplied() || changed
	changed = g.advanceSaved() || changed
	changed = g.advanceOrders() || changed
	return changed
}

func (g *Guard) plan() Plan {
	p := Plan{
		Kernel:  g.planKernel(),
		Fix:     g.planFix(),
		Save:    g.saved.save,
		Lookups: g.planLookups(),
		Keyings: g.planKeyings(),
		Asks:    g.planAsks(),
		Records: g.planRecords(),
		Replies: g.planReplies(),
		Done:    g.orders.done,
	}
	p.Wake = g.wake
	return p
}

// due reports whether a deadline has come; one that has not is remembered as a
// reason to wake. It is the only way in which the core looks at deadlines.
func (g *Guard) due(t time.Duration) bool {
	if t <= g.now.Mono {
		return true
	}
	if g.wake == 0 || t < g.wake {
		g.wake = t
	}
	return false
}

// key gives out a new key. Keys ascend.
func (g *Guard) key() Key {
	g.last++
	return g.last
}

// wall is the wall-clock time of a monotonic reading, by the clock as it is now.
func (g *Guard) wall(t time.Duration) time.Time {
	return g.now.Wall.Add(t - g.now.Mono).UTC()
}

// mono is the inverse of wall: only as true as the wall clock was when t was written.
// A time that is none is far enough, and still near enough to reckon with.
func (g *Guard) mono(t time.Time) time.Duration {
	return g.now.Mono + min(max(t.Sub(g.now.Wall), -far), far)
}

// jitter spreads a duration by up to a part of it, to either side (RFC 8633: no
// fixed schedule).
func (g *Guard) jitter(d time.Duration, part float64) time.Duration {
	return d + time.Duration((2*g.rng.Float64()-1)*part*float64(d))
}
