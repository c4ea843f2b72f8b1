package guardtest

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/selection"
	"ntpveil/guard/servo"
	"ntpveil/rules"
)

// World is a random, asynchronous world for the core: a kernel whose worker
// works in stages that fail separately, servers that lie, names that do not
// resolve, a ledger that cannot be written, an admin, a suspend, a kill. It is
// the truth that the promises are judged by after every Step.
//
// Everything follows from the seed. Time is virtual.
type World struct {
	Seed uint64
	rng  *rand.Rand

	guard *guard.Guard
	conf  guard.Config
	life  int // the how manyth run of the daemon this is

	now    guard.Instant
	offset time.Duration // of the host's clock: true time minus wall
	slew   servo.Slew    // what the kernel makes up for
	drift  float64       // ppm by which the clock is slow, before it is steered
	freq   float64       // ppm by which it is steered
	events timeline
	order  int

	kernel  truth
	wish    guard.Kernel
	working bool
	again   bool
	culprit string

	net     network
	disk    guard.Snapshot
	diskBad bool
	pending []guard.Record

	asks    map[guard.Key]*talk
	lookups map[guard.Key]bool
	keyings map[guard.Key]bool
	cookies map[string]*cookie // every one that was ever given
	given   int
	gone    map[guard.Key]bool // keys that left the plan of this life
	fixes   map[guard.Key]bool
	saving  bool
	stopKey guard.Key
	quiet   bool // no accidents
	done    bool
	alarm   int
	starts  int
	orders  guard.Key
	replies map[guard.Key]bool

	plan  guard.Plan // the last one
	judge judge
	Log   []string // the last lines, for a failure
}

// talk is an ask as the world carries it out.
type talk struct {
	ask   guard.Ask
	ended bool
}

// happening is something that happens at a time.
type happening struct {
	at    time.Duration
	order int
	life  int // 0: whatever the life; else it dies with that run of the daemon
	do    func()
}

type timeline []happening

func (t timeline) Len() int { return len(t) }
func (t timeline) Less(i, j int) bool {
	if t[i].at != t[j].at {
		return t[i].at < t[j].at
	}
	return t[i].order < t[j].order
}
func (t timeline) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *timeline) Push(x any)   { *t = append(*t, x.(happening)) }
func (t *timeline) Pop() any {
	old := *t
	x := old[len(old)-1]
	*t = old[:len(old)-1]
	return x
}

// NewWorld makes a world full of mischief and starts the daemon in it.
func NewWorld(seed uint64) *World {
	w := newWorld(seed)
	w.offset = time.Duration(w.rng.Int64N(int64(400*time.Second))) - 200*time.Second
	w.net.misbehave(w.rng)
	w.misbehaveNTS()
	w.conf = w.randomConfig()
	w.start()
	w.mischief()
	return w
}

// newWorld is a world in which nothing goes wrong by itself, before the daemon
// is started in it.
func newWorld(seed uint64) *World {
	w := &World{
		Seed: seed, rng: rand.New(rand.NewPCG(seed, 2016)),
		now: guard.Instant{Mono: time.Hour, Boot: time.Hour, Wall: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)},
	}
	w.kernel = truth{exposed: map[netip.Addr]time.Duration{}, tuples: map[rules.Solicited]time.Duration{}, hoods: map[netip.Prefix]time.Duration{}, addrs: map[netip.Addr]*liveAddr{}}
	w.cookies = map[string]*cookie{}
	w.judge.lastAsk = map[netip.Prefix][]time.Duration{}
	w.disk.Clock.BootID = bootID // not the first run of this boot
	w.net.build()
	w.drift = (2*w.rng.Float64() - 1) * honestDrift
	w.conf = plainConfig()
	return w
}

const bootID = "world"

// honestDrift is the most that a crystal is off by, in ppm.
const honestDrift = 80

func (w *World) logf(format string, args ...any) {
	w.Log = append(w.Log, fmt.Sprintf("%s life=%d %s", w.now.Mono.Round(time.Microsecond), w.life, fmt.Sprintf(format, args...)))
	if len(w.Log) > 400 {
		w.Log = w.Log[100:]
	}
}

// in has something happen after a time.
func (w *World) in(d time.Duration, life int, do func()) {
	w.order++
	heap.Push(&w.events, happening{w.now.Mono + d, w.order, life, do})
}

// soon is a random short time.
func (w *World) soon(most time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(most)) + 1)
}

func (w *World) chance(p float64) bool { return w.rng.Float64() < p }

// Run lets the world turn for a time. It returns the first promise that broke.
func (w *World) Run(d time.Duration) error {
	end := w.now.Mono + d
	for w.judge.broken == nil && len(w.events) > 0 && w.events[0].at <= end {
		h := heap.Pop(&w.events).(happening)
		w.moveTo(h.at)
		if h.life == 0 || h.life == w.life {
			h.do()
		}
	}
	return w.judge.broken
}

func (w *World) moveTo(at time.Duration) {
	d := at - w.now.Mono
	w.now.Mono, w.now.Boot, w.now.Wall = at, w.now.Boot+d, w.now.Wall.Add(d)
	slewed := w.slew.Done(at.Seconds()) - w.slew.Done((at - d).Seconds())
	w.offset += time.Duration((w.drift-w.freq)/1e6*float64(d) - slewed*1e9)
	w.kernel.expire(at)
}

// start begins a run of the daemon: the ledger is what is on disk.
func (w *World) start() {
	w.life++
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(w.rng.Uint32())
	}
	w.guard = guard.New(seed, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	w.keyings = map[guard.Key]bool{}
	w.asks, w.lookups, w.gone, w.fixes = map[guard.Key]*talk{}, map[guard.Key]bool{}, map[guard.Key]bool{}, map[guard.Key]bool{}
	w.replies = map[guard.Key]bool{}
	w.pending, w.wish, w.working, w.again, w.saving = nil, guard.Kernel{}, false, false, false
	w.stopKey, w.done = 0, false
	w.judge.newLife()
	w.logf("start")
	w.step(guard.Configured{Config: w.conf})
	life := w.life
	snapshot := w.copyDisk()
	first := []guard.Event{guard.Restored{Ledger: snapshot}, guard.ClockSeen{Frequency: w.freq}}
	w.rng.Shuffle(len(first), func(i, j int) { first[i], first[j] = first[j], first[i] })
	for _, ev := range first {
		w.in(w.soon(time.Millisecond), life, func() { w.step(ev) })
	}
	w.in(w.soon(5*time.Millisecond), life, func() { w.step(guard.HostSeen{Host: w.host()}) })
	w.in(w.soon(5*time.Millisecond), life, w.work)
}

func (w *World) copyDisk() guard.Snapshot {
	return guard.Snapshot{Exposures: slices.Clone(w.disk.Exposures), Servers: slices.Clone(w.disk.Servers),
		Pools: slices.Clone(w.disk.Pools), Clock: w.disk.Clock, Rules: w.disk.Rules, NTS: slices.Clone(w.disk.NTS)}
}

// step gives the core an event and judges and carries out its plan.
func (w *World) step(ev guard.Event) {
	if w.done || w.judge.broken != nil {
		return
	}
	w.logf("event %s", describe(ev))
	w.told(ev)
	p := w.guard.Step(w.now, ev)
	w.plan = p
	w.judgePlan(p)
	w.judgeApplied()
	if !w.quiet && w.chance(0.05) {
		w.judgeStill(p)
	}
	w.carryOut(p)
}

func describe(ev guard.Event) string {
	switch ev := ev.(type) {
	case guard.KernelSeen:
		return fmt.Sprintf("kernel seen: %d exposed, %d addresses, %d ready, mode %s, err %v, culprit %q", len(ev.Kernel.Shield.Exposed), len(ev.Kernel.Addrs), len(ev.Ready), ev.Kernel.Shield.Mode, ev.Err, ev.Culprit)
	case guard.Configured:
		return "configured"
	case guard.Restored:
		return "restored"
	case guard.HostSeen:
		return fmt.Sprintf("host seen: link %d prefix %s preferred %v", ev.Host.Link.Index, ev.Host.Prefix, ev.Host.Preferred)
	case guard.Answered:
		return fmt.Sprintf("answered %d kiss=%q err=%v offset=%s", ev.Key, ev.Kiss, ev.Err, ev.Sample.Offset)
	}
	return fmt.Sprintf("%T%+v", ev, ev)
}

func (w *World) carryOut(p guard.Plan) {
	w.doKernel(p.Kernel)
	w.doAsks(p.Asks)
	w.doLookups(p.Lookups)
	w.doKeyings(p.Keyings)
	w.doRecords(p.Records)
	w.doFix(p.Fix)
	w.doSave(p.Save)
	if p.Done {
		w.done = true
		w.finish()
		return
	}
	w.alarm++
	if alarm := w.alarm; p.Wake > 0 {
		w.in(p.Wake-w.now.Mono, w.life, func() {
			if alarm == w.alarm { // there is one timer, and the latest plan set it
				w.step(guard.Woke{})
			}
		})
	}
}

// finish is what the daemon does after the last Step: one more pass, then the end.
func (w *World) finish() {
	w.kernel.set(w, w.wish.Addrs)
	w.logf("stopped")
	if left := w.kernel.ours(); len(left) > 0 && !w.kernel.failed {
		w.judge.fail("stop: addresses stay: %v", left)
	}
	w.life++ // nothing of that run happens any more
	w.startIn(w.soon(10 * time.Second))
}

func (w *World) doAsks(asks []guard.Ask) {
	keys := map[guard.Key]bool{}
	for _, a := range asks {
		keys[a.Key] = true
		if w.asks[a.Key] != nil {
			continue
		}
		x := &talk{ask: a}
		w.asks[a.Key] = x
		w.judgeAsk(a)
		w.exchange(x)
	}
	for k := range w.asks {
		if !keys[k] {
			w.asks[k].ended = true
			delete(w.asks, k)
		}
	}
}

// exchange has a server answer, late, wrongly or not at all.
func (w *World) exchange(x *talk) {
	end := func(ev guard.Answered) {
		if x.ended {
			return
		}
		x.ended = true
		ev.Key = x.ask.Key
		w.judge.answered(ev, x.ask.To.Addr())
		w.step(ev)
	}
	after, reply := w.net.answer(w, x.ask)
	after = min(after, max(x.ask.By-w.now.Mono, 1))
	w.in(after, w.life, func() {
		ev := reply()
		if ev.Err == nil && ev.Kiss == "" {
			ev.Sample.At = w.now.Mono
		}
		end(ev)
	})
}

func (w *World) doLookups(lookups []guard.Lookup) {
	keys := map[guard.Key]bool{}
	for _, l := range lookups {
		keys[l.Key] = true
		if w.lookups[l.Key] {
			continue
		}
		w.lookups[l.Key] = true
		if !w.quiet && w.chance(0.05) {
			continue // never answers
		}
		w.in(w.soon(3*time.Second), w.life, func() {
			if w.lookups[l.Key] {
				w.step(guard.Resolved{Key: l.Key, Addrs: w.net.resolve(w, l.Name), Err: w.net.lookupError(w)})
			}
		})
	}
	for k := range w.lookups {
		if !keys[k] {
			delete(w.lookups, k)
		}
	}
}

// doRecords writes what is pending, after a while, in one go.
func (w *World) doRecords(records []guard.Record) {
	if len(records) == 0 {
		return
	}
	begun := len(w.pending) > 0
	w.pending = records
	if begun {
		return
	}
	w.in(w.soon(30*time.Millisecond), w.life, func() {
		batch := w.pending
		w.pending = nil
		if !w.quiet && w.chance(0.2) { // the rest comes later
			batch = batch[:1+w.rng.IntN(len(batch))]
		}
		upto := batch[len(batch)-1].Key
		if w.diskBad {
			w.step(guard.Recorded{Upto: upto, Err: fmt.Errorf("no space left")})
			return
		}
		for _, r := range batch {
			w.keep(r)
		}
		w.step(guard.Recorded{Upto: upto})
	})
}

func (w *World) keep(r guard.Record) {
	switch {
	case r.Exposure != nil:
		w.disk.Exposures = replace(w.disk.Exposures, *r.Exposure, func(a, b guard.ExposureRecord) bool { return a.Addr == b.Addr && a.Server == b.Server })
	case r.Server != nil:
		w.disk.Servers = replace(w.disk.Servers, *r.Server, func(a, b guard.ServerRecord) bool { return a.Addr == b.Addr })
	case r.Pool != nil:
		w.disk.Pools = replace(w.disk.Pools, *r.Pool, func(a, b guard.PoolRecord) bool { return a.Name == b.Name })
	case r.NTS != nil:
		w.disk.NTS = replace(w.disk.NTS, *r.NTS, func(a, b guard.NTSRecord) bool { return a.Name == b.Name })
	case r.Clock != nil:
		w.disk.Clock = *r.Clock
	case r.Rules != nil:
		w.disk.Rules = *r.Rules
	}
}

func replace[T any](list []T, x T, same func(a, b T) bool) []T {
	if i := slices.IndexFunc(list, func(y T) bool { return same(x, y) }); i >= 0 {
		list[i] = x
		return list
	}
	return append(list, x)
}

// doSave keeps the clock: not in a life that only observes, and one at a time.
func (w *World) doSave(s guard.Save) {
	if s.Key == 0 || w.fixes[s.Key] {
		return
	}
	w.fixes[s.Key] = true
	if w.conf.Observe || w.saving {
		w.judge.fail("save %d: observing %t, another is under way %t", s.Key, w.conf.Observe, w.saving)
	}
	w.saving = true
	takes := time.Millisecond
	if !w.quiet {
		takes *= time.Duration(s.Key % 1000)
	}
	w.in(takes, w.life, func() {
		w.saving = false
		var err error
		if !w.quiet && s.Key%7 == 0 {
			err = errors.New("save clock: no space left on device")
		}
		w.step(guard.Saved{Key: s.Key, Err: err})
	})
}

func (w *World) doFix(f guard.Fix) {
	if f.Key == 0 || w.fixes[f.Key] {
		return
	}
	w.fixes[f.Key] = true
	w.judgeFix(f)
	w.in(w.soon(time.Millisecond), w.life, func() {
		if !w.quiet && w.chance(0.02) {
			w.step(guard.ClockSeen{Key: f.Key, Err: fmt.Errorf("not permitted")})
			return
		}
		w.now.Wall = w.now.Wall.Add(f.Step)
		w.offset -= f.Step
		w.freq = f.Frequency
		w.slew = servo.Slew{Phase: f.Slew.Seconds(), First: w.now.Mono + time.Second - time.Duration(w.now.Wall.Nanosecond()), Constant: f.Over}
		w.step(guard.ClockSeen{Key: f.Key, Made: f.Step, Frequency: f.Frequency})
	})
}

// sampleOf is what an exchange with a server measures of the host's clock.
func (w *World) sampleOf(a guard.Ask, lie time.Duration) selection.Sample {
	delay := 5*time.Millisecond + w.soon(40*time.Millisecond)
	return selection.Sample{
		Server: a.To, At: w.now.Mono, Offset: w.offset + lie + w.soon(2*time.Millisecond) - time.Millisecond,
		Delay: delay, Dispersion: time.Microsecond, RootDelay: 2 * time.Millisecond, RootDisp: time.Millisecond, Stratum: 2,
	}
}
