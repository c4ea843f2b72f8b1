package guard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ntpveil/guard/selection"
)

// trouble is a world in which anything may happen at any time.
type trouble struct {
	*ideal
	r      *rand.Rand
	host   Host
	paused time.Duration // when a pause was that nobody can know of before the next sync
	deaf   time.Duration // until when the kernel could not be told, or had another master
	orders map[Key]bool
	seed   uint64
	log    []string
}

// TestNothingSticks: whatever came together, what is said of the clock is true
// meanwhile, to people and to the kernel; and as soon as all is well again, so is the
// clock, and nobody waits any more.
func TestNothingSticks(t *testing.T) {
	for seed := range uint64(24) {
		w := &trouble{ideal: newIdeal(t, func(c *Config) { c.Observe = seed%8 == 7 }), r: rand.New(rand.NewPCG(seed, 1)), orders: map[Key]bool{}, seed: seed}
		w.host = w.g.host
		w.start(time.Minute)
		for range 60 {
			w.happen()
			w.look("at once")
			for range w.r.IntN(4) {
				w.run(time.Duration(w.r.ExpFloat64() * float64(15*time.Second)))
				w.look("later")
			}
		}
		w.calm()
		if t.Failed() {
			for _, line := range w.log {
				t.Log(line)
			}
			t.Fatalf("seed %d", seed)
		}
	}
}

// happen has one thing happen.
func (w *trouble) happen() {
	by := time.Duration(w.r.NormFloat64() * []float64{1e8, 2e9, 5e11}[w.r.IntN(3)])
	type event struct {
		name string
		do   func()
	}
	all := []event{
		{"foreign step", func() { w.stepped(by + 2*jump*by/by.Abs()); w.step(Woke{}) }},
		{"sleep", func() {
			w.now.Boot, w.now.Wall, w.truth = w.now.Boot+time.Hour, w.now.Wall.Add(time.Hour-by/10), w.truth+by/10
			w.step(Woke{})
		}},
		{"pause", func() { w.truth, w.paused = w.truth+by.Abs(), w.now.Mono }},
		{"restart", func() { w.late = nil; w.restart(); clear(w.orders) }},
		{"not permitted", func() { w.fixErr = errors.New("operation not permitted") }},
		{"permitted", func() { w.fixErr = nil }},
		{"reports come late", func() { w.lateFix = true }},
		{"reports come", w.report},
		{"silence", func() { w.silence(true) }},
		{"answers", func() { clear(w.silent) }},
		{"one lies", func() { w.lie(1) }},
		{"two lie", func() { w.lie(2) }},
		{"none lies", func() { w.lie(0) }},
		{"another crystal", func() { w.drift = 100*w.r.Float64() - 50 }},
		{"a frequency far off", func() { w.drift = 400 }},
		{"another program steers", func() { w.freq += 30 }},
		{"sync", func() { w.ask("sync") }},
		{"step", func() { w.ask("step") }},
		{"no network", func() { w.step(HostSeen{Host{BootID: w.host.BootID}}) }},
		{"network", func() { w.step(HostSeen{w.host}) }},
		{"the disk is full", func() { w.diskErr = errors.New("no space left on device") }},
		{"the disk is not full", func() { w.diskErr = nil }},
		{"other polls", func() {
			c := w.g.conf
			c.PollMax = c.PollMin << w.r.IntN(6)
			w.step(Configured{c})
		}},
	}
	if w.seed%2 == 0 { // the clock is ours alone
		all = slices.DeleteFunc(all, func(x event) bool { return x.name == "not permitted" || x.name == "another program steers" })
	}
	what := all[w.r.IntN(len(all))]
	w.log = append(w.log, fmt.Sprintf("%s: %s (%s)", w.now.Mono, what.name, by))
	what.do()
}

// lie has so many of the four servers be ten seconds off.
func (w *trouble) lie(n int) {
	w.tell = func(to netip.Addr, s *selection.Sample) {
		for _, liar := range fourServers[:n] {
			if to == addr(liar.Host) {
				s.Offset += 10 * time.Second
			}
		}
	}
}

func (w *trouble) ask(verb string) {
	k := 1<<63 + Key(len(w.begun))
	w.begun[k], w.orders[k] = true, true
	w.step(Ordered{Key: k, Verb: verb})
}

// look judges what is said of the clock.
func (w *trouble) look(when string) {
	for _, r := range w.replies {
		delete(w.orders, r.Key)
	}
	w.replies = nil
	if w.lateFix || w.paused != 0 && w.g.clock.lastAgreed <= w.paused {
		return
	}
	w.paused = 0
	if w.fixErr != nil || w.freq != w.g.clock.frequency {
		w.deaf = w.now.Mono
	}
	const slack = 5 * time.Millisecond
	s := w.g.Status(w.now)
	off := w.truth
	if w.g.conf.Observe {
		off -= seconds(s.Clock.Offset) // of the virtual clock
	}
	if said := seconds(s.Clock.RootDistance); s.Synchronized && off.Abs() > said+slack {
		w.t.Errorf("%s %s: the clock is behind by %s, and said to be within %s", w.now.Mono, when, off, said)
	}
	grown := w.maxError + time.Duration(growth*float64(w.now.Mono-w.errorAt))
	if w.sync && w.errorAt > w.deaf && grown < unsyncAt && w.truth.Abs() > grown+slack {
		w.t.Errorf("%s %s: the clock is behind by %s, and the kernel believes %s", w.now.Mono, when, w.truth, grown)
	}
}

// calm lets all be well again, and wants the clock to be.
func (w *trouble) calm() {
	w.fixErr, w.diskErr, w.drift = nil, nil, 20
	clear(w.silent)
	w.lie(0)
	w.report()
	w.step(HostSeen{w.host})
	w.run(30 * time.Minute)
	w.look("calm")
	if w.seed%2 == 0 && w.said("another program steers") {
		w.t.Error("no other program steered")
	}
	if len(w.orders) > 0 {
		w.t.Errorf("%d orders wait", len(w.orders))
	}
	why := "not asked"
	for range 10 { // the servers may have been asked a lot
		if why = w.order("step", 2*time.Minute); why == "" {
			break
		}
	}
	if why != "" {
		w.t.Errorf("step: %q", why)
	}
	w.run(2 * time.Hour)
	if !w.g.conf.Observe {
		w.wantSynced("calm", true)
	} else if off := w.truth.Seconds() - w.g.Status(w.now).Clock.Offset; off > 5e-3 || off < -5e-3 || len(w.fixes) > 0 {
		w.t.Errorf("calm: observed to be off by %f s, fixes %+v", off, w.fixes)
	} else {
		return
	}
	if w.truth.Abs() > 5*time.Millisecond || !w.sync || w.g.clock.spoiled || w.g.clock.steer.lost || w.g.saved.dead {
		w.t.Errorf("behind by %s, the kernel told %t, %+v", w.truth, w.sync, w.g.clock.steer.lost)
	}
}
