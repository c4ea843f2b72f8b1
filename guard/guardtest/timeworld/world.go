package timeworld

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// Setting is how a world begins.
type Setting struct {
	Seed    uint64
	Profile Profile
	Servers int     // 0: four
	Offset  float64 // s that the clock is behind by
	Drift   float64 // ppm that the crystal is slow by
	Config  func(c *guard.Config)
	Begin   time.Time // 0: the first of November 2026

	Mischief func(w *World) // what is done to the servers before the daemon starts
}

// World is the core in a world of its own.
type World struct {
	Setting
	clock   clock
	servers []*server
	trace   Trace

	guard *guard.Guard
	conf  guard.Config
	life  byte // the how manyth run of the daemon this is
	plan  guard.Plan
	wish  guard.Kernel
	begun map[guard.Key]bool
	kept  guard.Snapshot
	way   []flight
	slept time.Duration
	done  []exchange // everything that was asked, for a Replay
	mute  bool       // corrections are refused
	onFix func(f guard.Fix)
}

// flight is an exchange that is under way.
type flight struct {
	exchange
	ask guard.Ask
	end time.Duration // by the truth
}

var (
	stable  = netip.MustParseAddr("2001:db8:1:1::55")
	gateway = netip.MustParseAddr("fe80::1")
)

// uptime is how long the host was up when the world began.
const uptime = time.Hour

// New makes a world and starts the daemon in it.
func New(s Setting) *World {
	if s.Begin.IsZero() {
		s.Begin = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	}
	w := &World{Setting: s, servers: makeServers(s.Seed, s.Profile, cmp.Or(s.Servers, 4))}
	w.clock = clock{osc: newOscillator(s.Seed, s.Drift*1e-6, s.Profile.Wander), behind: s.Offset}
	w.conf = guard.Config{
		Use: 4, MinAgree: 3, PollMin: 64 * time.Second, PollMax: 2048 * time.Second,
		StepThreshold: time.Second / 2, StepWhen: "start", MaxForward: 1000 * time.Second, MaxBackward: 1000 * time.Second,
		Rotate: "off", Keep: 2 * time.Hour, MaxAddrs: 8, Control: 1, Shield: rules.Enforce, Hold: 15 * time.Minute, IfImpossible: "wait",
	}
	for _, srv := range w.servers {
		w.conf.Servers = append(w.conf.Servers, guard.Server{Host: srv.addr.Addr().String(), Port: 123})
	}
	if s.Config != nil {
		s.Config(&w.conf)
	}
	if s.Mischief != nil {
		s.Mischief(w)
	}
	w.Start()
	return w
}

func makeServers(seed uint64, p Profile, n int) []*server {
	r := rand.New(rand.NewPCG(seed, 0x5e24e25))
	var loads []load
	if p.busy != nil {
		loads = p.busy(r)
	}
	var out []*server
	for i := range n {
		s := &server{addr: serverAddr(i), stratum: 2}
		p.build(r, s)
		s.way.loads = loads
		out = append(out, s)
	}
	return out
}

// Start begins a run of the daemon, which finds what the last one kept.
func (w *World) Start() {
	w.life++
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], w.Seed)
	seed[31] = w.life
	w.guard = guard.New(seed, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	w.begun, w.wish, w.way = map[guard.Key]bool{}, guard.Kernel{}, nil
	w.step(guard.Configured{Config: w.conf})
	w.step(guard.HostSeen{Host: host()})
	w.step(guard.Restored{Ledger: w.kept})
	w.step(guard.ClockSeen{Frequency: w.clock.freq})
	w.step(guard.KernelSeen{})
}

func host() guard.Host {
	return guard.Host{
		BootID: "timeworld", Link: guard.Link{Index: 2, Name: "eth0"}, Prefix: netip.PrefixFrom(stable, 64).Masked(),
		Addrs: []netip.Addr{stable}, LinkAddrs: []netip.Addr{netip.MustParseAddr("fe80::55"), stable}, Preferred: []netip.Addr{stable},
		Source6: stable, Route6: true, Gateway6: gateway, Gateways: []netip.Addr{gateway}, MaxAddrs: 16, Devices: []string{"eth0"},
	}
}

// now is what the host's clocks show.
func (w *World) now() guard.Instant {
	mono := uptime + w.clock.at - w.slept - duration(w.clock.lost)
	return guard.Instant{Mono: mono, Boot: mono + w.slept, Wall: w.Begin.Add(w.clock.at - duration(w.clock.behind))}
}

// Off is by how much the clock that the core disciplines is behind the truth, in s.
func (w *World) Off() float64 {
	if w.conf.Observe {
		return w.clock.behind - w.guard.Status(w.now()).Clock.Offset
	}
	return w.clock.behind
}

// Run lets a time pass.
func (w *World) Run(d time.Duration) {
	for end := w.clock.at + d; w.clock.at < end; {
		next, i := end, w.first()
		if i >= 0 {
			next = min(next, w.way[i].end)
		}
		wake := w.plan.Wake > 0 && w.clock.at+w.until(w.plan.Wake) <= next
		if wake {
			next = w.clock.at + w.until(w.plan.Wake)
		}
		w.pass(next)
		switch {
		case wake:
			w.step(guard.Woke{})
		case i >= 0 && w.way[i].end <= w.clock.at:
			w.land(i)
		}
	}
}

// until is how long it takes until the monotonic clock shows a time. A clock
// that is being slewed comes early or late: the core is woken once more then.
func (w *World) until(mono time.Duration) time.Duration {
	return max(mono-w.now().Mono, time.Microsecond)
}

// pass lets time pass in which nothing happens, and looks at the clock at times.
func (w *World) pass(to time.Duration) {
	for w.clock.at < to {
		w.clock.advance(min(to, w.trace.due))
		if w.clock.at >= w.trace.due {
			w.trace.look(w.clock.at, w.Off())
		}
	}
}

// first is the exchange that is over first; -1: there is none.
func (w *World) first() int {
	at := -1
	for i, f := range w.way {
		if at < 0 || f.end < w.way[at].end {
			at = i
		}
	}
	return at
}

// land ends an exchange.
func (w *World) land(i int) {
	f := w.way[i]
	w.way = slices.Delete(w.way, i, i+1)
	ev := guard.Answered{Key: f.ask.Key, Err: errors.New("no answer")}
	if !f.lost {
		s := w.servers[f.server]
		ev.Sample, ev.Err = s.sample(f.exchange, w.clock.behind), nil
		ev.Sample.At = w.now().Mono
		s.last = ev.Sample
		w.done = append(w.done, f.exchange)
	}
	w.step(ev)
}

// step gives the core an event, and whatever follows from it at this instant.
func (w *World) step(ev guard.Event) {
	for n := 0; ev != nil; n++ {
		if n > 1000 {
			panic(fmt.Sprintf("seed %d: the core does not come to rest", w.Seed))
		}
		w.plan = w.guard.Step(w.now(), ev)
		w.depart()
		ev = w.follow()
	}
}

// follow is what follows from the plan at once; nil: nothing.
func (w *World) follow() guard.Event {
	p := w.plan
	if f := p.Fix; f.Key != 0 && !w.begun[f.Key] {
		w.begun[f.Key] = true
		return w.fix(f)
	}
	if n := len(p.Records); n > 0 {
		for _, r := range p.Records {
			w.keep(r)
		}
		return guard.Recorded{Upto: p.Records[n-1].Key}
	}
	for _, l := range p.Lookups {
		if !w.begun[l.Key] {
			w.begun[l.Key] = true
			return guard.Resolved{Key: l.Key, Err: errors.New("no such name")}
		}
	}
	if p.Kernel.Equal(w.wish) {
		return nil
	}
	w.wish = p.Kernel
	seen := guard.KernelSeen{Kernel: p.Kernel}
	for _, a := range p.Kernel.Addrs {
		seen.Ready = append(seen.Ready, a.Addr)
	}
	return seen
}

func (w *World) fix(f guard.Fix) guard.Event {
	if w.mute {
		return guard.ClockSeen{Key: f.Key, Err: errors.New("operation not permitted")}
	}
	if w.onFix != nil {
		w.onFix(f)
	}
	seen := w.clock.fix(f)
	if seen.At = w.now(); seen.Err == nil {
		w.trace.corrected(w.clock.at, f)
	}
	return seen
}

func (w *World) keep(r guard.Record) {
	w.trace.said(r)
	switch {
	case r.Clock != nil:
		w.kept.Clock = *r.Clock
	case r.Server != nil:
		same := func(s guard.ServerRecord) bool { return s.Addr == r.Server.Addr }
		if i := slices.IndexFunc(w.kept.Servers, same); i >= 0 {
			w.kept.Servers[i] = *r.Server
			return
		}
		w.kept.Servers = append(w.kept.Servers, *r.Server)
	}
}

// depart sends the queries that the plan wants and that are not sent yet.
func (w *World) depart() {
	for _, a := range w.plan.Asks {
		i := slices.IndexFunc(w.servers, func(s *server) bool { return s.addr == a.To })
		if w.begun[a.Key] || i < 0 {
			continue
		}
		w.begun[a.Key] = true
		s := w.servers[i]
		s.asked++
		x := s.meet(w.Seed, exchange{server: i, number: s.asked, src: a.From, sent: w.clock.at, behind: w.clock.behind})
		f := flight{exchange: x, ask: a, end: x.arrives()}
		if by := w.clock.at + w.until(a.By); s.dead || x.lost || f.end > by {
			f.lost, f.end = true, by
		}
		w.way = append(w.way, f)
	}
}

// Suspend has the host sleep. Its clock is kept by another crystal meanwhile.
func (w *World) Suspend(d time.Duration, err float64) {
	before := w.clock
	w.clock.advance(w.clock.at + d)
	w.clock.behind, w.clock.lost = before.behind+err, before.lost
	w.clock.slewed, w.clock.steer = before.slewed, before.steer
	w.slept += d
	w.trace.due = w.clock.at
	w.step(guard.Woke{})
}

// Status is what the core says of itself.
func (w *World) Status() guard.Status { return w.guard.Status(w.now()) }
