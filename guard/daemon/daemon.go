package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ntpveil/guard"
)

const (
	stopAtMost = 4500 * time.Millisecond // whatever happens, an ordered stop ends
	eventRoom  = 64

	rereadEvery = time.Minute
)

// Parts is everything that the daemon is wired to.
type Parts struct {
	Shield    Shield
	Addresses Addresses
	Facts     Facts
	Asker     Asker
	Keyer     Keyer
	Resolver  Resolver
	Clock     Clock
	Jumps     Jumps
	Ledger    Ledger
	Journal   Journal

	Now      func() guard.Instant                      // the one reading of time
	Load     func() (guard.Config, error)              // the configuration, anew
	Choose   func(preset string) (guard.Config, error) // the same with this preset in place of the configured one
	Seed     [32]byte                                  // from the system's random source
	Build    time.Time                                 // no clock is set before it
	Version  string
	Watchdog time.Duration // how often the service manager wants to hear of the loop; 0: never
}

// Daemon runs the Guard. Use New, then Run once.
type Daemon struct {
	parts    Parts
	guard    *guard.Guard
	events   chan guard.Event
	asks     chan func() // work for the loop's goroutine: status and orders
	waiting  map[guard.Key]chan string
	orders   guard.Key                    // the last key of an order; they have a space of their own
	conf     atomic.Pointer[guard.Config] // the loop writes it, the watch of the host reads it
	timer    *time.Timer
	kernel   *kernel
	reading  sync.Mutex // of the host's facts
	recorder *recorder
	askJobs  *jobs
	lookups  *jobs
	keyings  *jobs
	fixed    guard.Key // the last correction that was begun
	saved    guard.Key // the last save
	ready    bool
	done     bool // an ordered stop is complete
	line     string
	changed  chan struct{} // closed and renewed whenever the status may have changed
	ended    chan struct{} // closed when the loop takes no more events
	stopped  chan struct{} // closed when Run is about to return
}

// New makes a daemon of its parts and a checked configuration.
func New(p Parts, c guard.Config) *Daemon {
	d := &Daemon{
		parts:   p,
		guard:   guard.New(p.Seed, p.Build),
		events:  make(chan guard.Event, eventRoom),
		asks:    make(chan func()),
		waiting: map[guard.Key]chan string{},
		orders:  1 << 63,
		changed: make(chan struct{}),
		ended:   make(chan struct{}),
		stopped: make(chan struct{}),
		timer:   time.NewTimer(time.Hour),
	}
	d.conf.Store(&c)
	d.kernel = newKernel(p.Shield, p.Addresses, d.mono, func(ev guard.KernelSeen) { d.emit(ev) })
	d.recorder = newRecorder(p.Ledger, p.Journal, func(ev guard.Recorded) { d.emit(ev) })
	return d
}

// Run works until ctx is done, then stops in order: every throw-away address is
// removed, within 5 s. It returns the first error of a part that cannot go on.
func (d *Daemon) Run(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, run := errgroup.WithContext(run)
	d.askJobs, d.lookups, d.keyings = newJobs(run), newJobs(run), newJobs(run)

	group.Go(func() error { return d.kernel.Run(run) })
	group.Go(func() error { return d.recorder.Run(run) })
	group.Go(func() error { return named("watch shield", d.parts.Shield.Watch(run, d.kernel.lost)) })
	group.Go(func() error { return d.watchHost(run) })
	group.Go(func() error {
		return named("watch clock", d.parts.Jumps.Watch(run, func() { d.emit(guard.Woke{}) }))
	})
	group.Go(func() error { return d.rereadHost(run) })
	group.Go(func() error {
		err := d.loop(ctx, run)
		close(d.ended) // first: whoever still wants to tell the loop something must not wait for it
		cancel()
		d.askJobs.stop()
		d.lookups.stop()
		d.keyings.stop()
		return err
	})
	err := group.Wait()
	close(d.stopped)
	_ = d.kernel.work(run) // the last wish, once more: nothing of ours that was on its way stays
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// emit gives the loop an event, as long as it takes any.
func (d *Daemon) emit(ev guard.Event) {
	select {
	case d.events <- ev:
	case <-d.ended:
	}
}

func named(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (d *Daemon) mono() time.Duration { return d.parts.Now().Mono }

// watchHost reports the host's facts at start and after every change, and has
// the kernel worker look, for what changed may be an address of ours.
func (d *Daemon) watchHost(ctx context.Context) error {
	d.readHost()
	return named("watch host", d.parts.Facts.Watch(ctx, d.readHost))
}

// rereadHost reads the facts that no event tells of: the peers of open sessions.
func (d *Daemon) rereadHost(ctx context.Context) error {
	t := time.NewTicker(rereadEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			d.readHost()
		}
	}
}

func (d *Daemon) readHost() {
	d.reading.Lock() // what was read first is told first
	defer d.reading.Unlock()
	d.kernel.poke()
	host, err := d.parts.Facts.Host(d.conf.Load().Interface)
	if err != nil {
		d.parts.Journal.Write(guard.Record{Kind: guard.KindNotice, At: d.parts.Now().Wall, Text: "read facts of the host: " + err.Error()})
		return
	}
	d.emit(guard.HostSeen{Host: host})
}

// loop steps the Guard. It alone touches it.
func (d *Daemon) loop(ctx, run context.Context) error {
	defer d.timer.Stop()
	beat, stopBeat := d.heartbeat()
	defer stopBeat()

	d.step(guard.Configured{Config: *d.conf.Load()})
	snapshot, err := d.parts.Ledger.Load()
	d.step(guard.Restored{Ledger: snapshot, Err: err})
	d.step(d.parts.Clock.Look())

	stop := ctx.Done()
	var giveUp <-chan time.Time
	for {
		var done bool
		select {
		case ev := <-d.events:
			done = d.step(ev)
		case <-d.timer.C:
			done = d.step(guard.Woke{})
		case work := <-d.asks:
			work()
			done = d.done
		case <-beat:
			d.parts.Journal.Notify("WATCHDOG=1")
		case <-stop:
			stop = nil
			giveUp = time.After(stopAtMost)
			d.parts.Journal.Notify("STOPPING=1")
			done = d.step(guard.Ordered{Key: d.orderKey(), Verb: "stop"})
		case <-giveUp:
			done = true
		case <-run.Done():
			return run.Err()
		}
		if done {
			return nil
		}
	}
}

func (d *Daemon) heartbeat() (<-chan time.Time, func()) {
	if d.parts.Watchdog <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(d.parts.Watchdog / 3)
	return t.C, t.Stop
}

// step steps the Guard and hands its plan out; it reports whether an ordered
// stop is complete.
func (d *Daemon) step(ev guard.Event) bool {
	now := d.parts.Now()
	plan := d.guard.Step(now, ev)
	d.kernel.want(plan.Kernel)
	d.recorder.want(plan.Records)
	d.begin(plan)
	d.correct(plan.Fix)
	d.save(plan.Save)
	for _, r := range plan.Replies {
		d.answer(r)
	}
	d.tell()
	if plan.Wake > 0 {
		d.timer.Reset(max(plan.Wake-now.Mono, 0))
	} else {
		d.timer.Stop()
	}
	d.done = plan.Done
	return d.done
}

func (d *Daemon) begin(plan guard.Plan) {
	asks := make(map[guard.Key]func(context.Context), len(plan.Asks))
	for _, ask := range plan.Asks {
		asks[ask.Key] = func(ctx context.Context) {
			d.parts.Asker.Ask(ctx, ask, func(ev guard.Answered) { d.emit(ev) })
		}
	}
	d.askJobs.match(asks)
	lookups := make(map[guard.Key]func(context.Context), len(plan.Lookups))
	for _, job := range plan.Lookups {
		lookups[job.Key] = func(ctx context.Context) { d.emit(d.parts.Resolver.Lookup(ctx, job)) }
	}
	d.lookups.match(lookups)
	keyings := make(map[guard.Key]func(context.Context), len(plan.Keyings))
	for _, job := range plan.Keyings {
		keyings[job.Key] = func(ctx context.Context) { d.emit(d.parts.Keyer.Key(ctx, job)) }
	}
	d.keyings.match(keyings)
}

// correct makes a correction once a key. It is one system call, made here so
// that nothing comes between the decision and the clock.
func (d *Daemon) correct(fix guard.Fix) {
	if fix.Key == 0 || fix.Key == d.fixed {
		return
	}
	d.fixed = fix.Key
	seen := d.parts.Clock.Fix(fix)
	go d.emit(seen)
}

// save saves the clock once a key. Nobody waits for a disk that hangs, not even
// the end.
func (d *Daemon) save(s guard.Save) {
	if s.Key == 0 || s.Key == d.saved {
		return
	}
	d.saved = s.Key
	go func() { d.emit(d.parts.Clock.Save(s)) }()
}

// tell lets the service manager and whoever waits know of a change.
func (d *Daemon) tell() {
	close(d.changed)
	d.changed = make(chan struct{})
	if !d.ready && d.guard.Ready() {
		d.ready = true
		d.parts.Journal.Notify("READY=1")
	}
	if line := d.guard.Line(); line != d.line {
		d.line = line
		d.parts.Journal.Notify("STATUS=" + line)
	}
}
