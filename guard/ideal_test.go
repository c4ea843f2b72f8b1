package guard

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/servo"

	"ntpveil/guard/selection"
)

// ideal drives a Guard in a world where everything that is planned comes true at
// once, apart from what a test spoils.
type ideal struct {
	t     *testing.T
	g     *Guard
	plan  Plan
	now   Instant
	truth time.Duration // what the host's clock is behind by
	slew  servo.Slew    // what the kernel makes up for
	drift float64       // ppm by which the clock is slow, before it is steered
	freq  float64       // ppm by which it is steered

	leap  int // that true time makes at the end of the day: 1 inserts, 2 deletes
	armed int // that the kernel was told of

	silent   map[netip.Addr]bool
	kiss     map[netip.Addr]string
	tell     func(to netip.Addr, s *selection.Sample) // what a server makes of the truth
	dns      map[string][]netip.Addr
	fixErr   error         // of every correction
	clock    ClockRecord   // the last one
	holdFix  bool          // corrections are not made
	holdDisk bool          // while one is planned, no record is written
	lateFix  bool          // they are made, and reported by report
	late     []ClockSeen   // to be reported
	sync     bool          // what the kernel was told last,
	maxError time.Duration // and at
	errorAt  time.Duration
	addrErr  error // of every address
	diskErr  error
	begun    map[Key]bool
	asked    map[netip.Addr]int
	lookups  int
	fixes    []Fix
	replies  []Reply
	notes    []string
	saved    ClockSeen // what is found at start
	saves    []Save
	saveErr  error
	holdSave bool
	lastWish Kernel
}

var fourServers = []Server{{"2001:db8:101::1", 123}, {"2001:db8:102::1", 123}, {"2001:db8:103::1", 123}, {"2001:db8:104::1", 123}}

// newIdeal makes a world with four configured servers, an hour after boot.
func newIdeal(t *testing.T, change func(c *Config)) *ideal {
	from := at()
	c := from.conf
	c.Servers, c.MaxForward, c.MaxBackward = fourServers, 1000*time.Second, 1000*time.Second
	if change != nil {
		change(&c)
	}
	from.host.Gateway6 = addr("fe80::1")
	w := &ideal{t: t, g: New([32]byte{1}, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), now: from.now,
		silent: map[netip.Addr]bool{}, kiss: map[netip.Addr]string{}, begun: map[Key]bool{}, asked: map[netip.Addr]int{}}
	w.plan = w.g.Step(w.now, Configured{c})
	w.plan = w.g.Step(w.now, HostSeen{from.host})
	return w
}

// restart begins another run of the daemon, which finds what the one before left.
func (w *ideal) restart() {
	conf, host := w.g.conf, w.g.host
	w.g = New([32]byte{2}, w.g.build)
	w.begun, w.lastWish = map[Key]bool{}, Kernel{}
	w.g.Step(w.now, Configured{conf})
	w.g.Step(w.now, HostSeen{host})
	w.start(0)
}

// start sees the empty kernel, and lets a time pass.
func (w *ideal) start(d time.Duration) *ideal {
	w.step(Restored{Ledger: Snapshot{Clock: w.clock}})
	w.step(ClockSeen{Frequency: w.freq, Synced: w.sync, Right: w.sync, Saved: w.saved.Saved, Epoch: w.saved.Epoch, LocalRTC: w.saved.LocalRTC})
	w.step(KernelSeen{})
	w.run(d)
	return w
}

// step has an event seen, and everything that follows from it at this instant.
func (w *ideal) step(ev Event) {
	for n := 0; ev != nil; n++ {
		if n > 1000 {
			w.t.Fatal("the world does not come to rest")
		}
		w.plan = w.g.Step(w.now, ev)
		w.replies = append(w.replies, w.plan.Replies...)
		ev = w.next()
	}
}

// run lets time pass.
func (w *ideal) run(d time.Duration) {
	for end := w.now.Mono + d; w.now.Mono < end; w.step(Woke{}) {
		to := end
		if w.plan.Wake > 0 {
			to = min(end, max(w.plan.Wake, w.now.Mono+time.Millisecond))
		}
		w.pass(to - w.now.Mono)
	}
}

func (w *ideal) pass(d time.Duration) {
	w.now = Instant{w.now.Mono + d, w.now.Boot + d, w.now.Wall.Add(d)}
	w.leapTo(w.now.Wall.Add(-d))
	slewed := w.slew.Done(w.now.Mono.Seconds()) - w.slew.Done((w.now.Mono - d).Seconds())
	w.truth += time.Duration((w.drift-w.freq)*1e-6*float64(d)) - seconds(slewed)
}

// stepped is what another program does to the clock. The kernel believes it no
// longer then, and ends a slew (ntp_clear).
func (w *ideal) stepped(d time.Duration) {
	w.now.Wall, w.truth = w.now.Wall.Add(d), w.truth-d
	if d != 0 {
		w.sync, w.slew = false, servo.Slew{}
	}
}

// order gives an order and lets a time pass; it returns what was replied, or
// "none" if nothing was.
func (w *ideal) order(verb string, d time.Duration) string {
	w.replies = nil
	k := 1<<63 + Key(len(w.begun))
	w.begun[k] = true
	w.step(Ordered{Key: k, Verb: verb})
	w.run(d)
	for _, r := range w.replies {
		if r.Key == k {
			return r.Err
		}
	}
	return "none"
}

// next is what happens next at this instant; nil: nothing.
func (w *ideal) next() Event {
	p := w.plan
	if f := p.Fix; f.Key != 0 && !w.begun[f.Key] && !w.holdFix {
		w.begun[f.Key] = true
		w.fixes = append(w.fixes, f)
		if w.fixErr != nil {
			return ClockSeen{Key: f.Key, Err: w.fixErr}
		}
		if f.Before != w.freq && !f.TakeOver {
			return ClockSeen{Key: f.Key, Err: errors.New("another program steers it")}
		}
		w.stepped(f.Step)
		w.armed = f.Leap
		w.freq = f.Frequency
		w.slew = servo.Slew{Phase: f.Slew.Seconds(), First: w.now.Mono + time.Second - time.Duration(w.now.Wall.Nanosecond()), Constant: f.Over}
		w.sync, w.maxError, w.errorAt = f.Sync, f.Error, w.now.Mono
		seen := ClockSeen{Key: f.Key, At: w.now, Made: f.Step, Frequency: f.Frequency}
		if w.lateFix {
			w.late = append(w.late, seen)
			return w.next()
		}
		return seen
	}
	if p.Fix.Key == 0 && len(w.late) > 0 { // given up; no report is later than the next event
		seen := w.late[0]
		w.late = nil
		return seen
	}
	if s := p.Save; s.Key != 0 && !w.begun[s.Key] && !w.holdSave {
		w.begun[s.Key] = true
		w.saves = append(w.saves, s)
		return Saved{Key: s.Key, Err: w.saveErr}
	}
	if n := len(p.Records); n > 0 && !(w.holdDisk && w.g.clock.pending()) {
		for _, r := range p.Records {
			w.notes = append(w.notes, r.Text)
			if r.Clock != nil {
				w.clock = *r.Clock
			}
		}
		return Recorded{Upto: p.Records[n-1].Key, Err: w.diskErr}
	}
	for _, l := range p.Lookups {
		if !w.begun[l.Key] {
			w.begun[l.Key] = true
			w.lookups++
			return Resolved{Key: l.Key, Addrs: w.dns[l.Name]}
		}
	}
	if !p.Kernel.Equal(w.lastWish) {
		w.lastWish = p.Kernel
		return w.kernel(p.Kernel)
	}
	return w.answer()
}

// kernel makes a wish true.
func (w *ideal) kernel(k Kernel) Event {
	if w.addrErr != nil && len(k.Addrs) > 0 {
		k.Addrs = nil
		return KernelSeen{Kernel: k, AddrErr: w.addrErr}
	}
	seen := KernelSeen{Kernel: k}
	for _, a := range k.Addrs {
		seen.Ready = append(seen.Ready, a.Addr)
	}
	return seen
}

func (w *ideal) answer() Event {
	for _, a := range w.plan.Asks {
		to := a.To.Addr()
		if w.begun[a.Key] || w.silent[to] {
			continue
		}
		w.begun[a.Key] = true
		w.asked[to]++
		if code := w.kiss[to]; code != "" {
			return Answered{Key: a.Key, Kiss: code}
		}
		s := selection.Sample{Server: a.To, At: w.now.Mono, Offset: w.truth, Delay: 10 * time.Millisecond, RootDelay: 10 * time.Millisecond, Stratum: 2}
		if w.tell != nil {
			w.tell(to, &s)
		}
		return Answered{Key: a.Key, Sample: s}
	}
	return nil
}

// wantSynced fails the test unless the clock is believed, and right, or is not.
func (w *ideal) wantSynced(what string, want bool) {
	w.t.Helper()
	s := w.g.Status(w.now)
	if s.Synchronized != want || want && w.truth.Abs() > time.Second {
		w.t.Errorf("%s: synchronised %t, the clock is behind by %s, %q", what, s.Synchronized, w.truth, w.g.whyNotSynced())
	}
}

// midRound runs until a sync is under way in which only the fourth server has
// not answered.
func (w *ideal) midRound() {
	w.silent[addr("2001:db8:104::1")] = true
	before := w.asked[addr("2001:db8:101::1")]
	for !w.g.round.active || w.asked[addr("2001:db8:101::1")] == before || w.asked[addr("2001:db8:102::1")] == before || w.asked[addr("2001:db8:103::1")] == before {
		w.run(time.Second / 4)
	}
}

// TestDeadClock: the one unlimited step forward is not counted.
func TestDeadClock(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-365 * 24 * time.Hour)
	w.start(time.Minute)
	w.wantSynced("after the step from before the build", true)
	w.stepped(-20 * time.Millisecond)
	w.run(24 * time.Hour)
	w.wantSynced("a day later", true)
}

// TestOrderedStep: it is permitted once, for its own sync alone, and clears what
// was counted.
func TestOrderedStep(t *testing.T) {
	w := newIdeal(t, nil)
	w.stepped(-5000 * time.Second)
	w.start(time.Minute)
	w.wantSynced("beyond the limit", false)
	if why := w.order("sync", 10*time.Minute); !strings.Contains(why, "max_change") {
		t.Errorf("sync: %q", why)
	}
	if why := w.order("step", time.Minute); why != "" {
		t.Errorf("step: %q", why)
	}
	w.wantSynced("permitted", true)
	w.stepped(-900 * time.Second)
	w.run(2 * time.Hour)
	w.wantSynced("within the limit again", true)

	for _, s := range fourServers {
		w.silent[addr(s.Host)] = true
	}
	if why := w.order("step", time.Minute); why == "" || why == "none" {
		t.Errorf("step without an answer: %q", why)
	}
	clear(w.silent)
	w.stepped(-5000 * time.Second)
	w.run(2 * time.Hour)
	w.wantSynced("the order had ended", false)
}

// TestLargeOffsetIsNotBelieved: what may only be slewed is not called synchronised.
func TestLargeOffsetIsNotBelieved(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.StepWhen = "never" })
	w.stepped(-900 * time.Second)
	w.start(time.Minute)
	w.wantSynced("900 s to slew", false)
	if f := w.fixes[0]; f.Sync || f.Error < 899*time.Second {
		t.Errorf("the kernel is told %+v", f)
	}
	if why := w.g.whyNotSynced(); !strings.Contains(why, "clock.step") {
		t.Errorf("status says %q", why)
	}
}

// TestPause: a clock that falls behind by more than it can drift was stopped.
func TestPause(t *testing.T) {
	w := newIdeal(t, nil).start(10 * time.Minute)
	w.truth += 600 * time.Second // nothing of the host noticed
	w.run(time.Hour)
	w.wantSynced("after a pause", true)
	if !slices.ContainsFunc(w.fixes, func(f Fix) bool { return f.Step != 0 }) {
		t.Error("it was not stepped")
	}
}

// TestRefusedIsToldToTheKernel: a clock that was believed is not any more.
func TestRefusedIsToldToTheKernel(t *testing.T) {
	w := newIdeal(t, nil).start(10 * time.Minute)
	w.truth += 5000 * time.Second
	n := len(w.fixes)
	w.run(time.Hour)
	w.wantSynced("beyond the limit", false)
	if len(w.fixes) != n+1 || w.fixes[n].Sync || w.fixes[n].Step != 0 || w.fixes[n].Slew != 0 {
		t.Errorf("%+v", w.fixes[n:])
	}
}

// TestSyncWaitsForTheCorrection: done is not said before it is.
func TestSyncWaitsForTheCorrection(t *testing.T) {
	w := newIdeal(t, nil)
	w.holdFix = true
	w.stepped(-100 * time.Second)
	w.start(0)
	for !w.g.clock.pending() {
		w.run(time.Second / 4)
	}
	w.wantSynced("while the correction is under way", false)
	w.run(correctWithin)
	w.wantSynced("given up", false)

	w.holdFix, w.fixErr = false, errors.New("operation not permitted")
	if why := w.order("sync", 5*time.Minute); !strings.Contains(why, "not permitted") {
		t.Errorf("sync: %q", why)
	}
	if why := w.g.whyNotSynced(); !strings.Contains(why, "not permitted") {
		t.Errorf("status says %q", why)
	}
	w.fixErr = nil
	w.run(10 * time.Minute)
	w.wantSynced("permitted", true)
}

// TestServersOfOnePrefix: they share a bucket, and still agree.
func TestServersOfOnePrefix(t *testing.T) {
	for n := 3; n <= 6; n++ {
		w := newIdeal(t, func(c *Config) {
			c.Servers = nil
			for a := addr("2001:db8:101::1"); len(c.Servers) < n; a = a.Next() {
				c.Servers = append(c.Servers, Server{a.String(), 123})
			}
		}).start(10 * time.Minute)
		w.stepped(-20 * time.Millisecond)
		before := len(w.fixes)
		w.run(6 * time.Hour)
		w.wantSynced("after six hours", true)
		if len(w.fixes) < before+5 {
			t.Errorf("%d servers in one /64: %d corrections in six hours", n, len(w.fixes)-before)
		}
		for a, asked := range w.asked {
			if asked < 5 {
				t.Errorf("%d servers in one /64: %s was asked %d times", n, a, asked)
			}
		}
	}
}

// TestClockChangesDuringSync: what was measured by the clock before is thrown away.
func TestClockChangesDuringSync(t *testing.T) {
	for what, happen := range map[string]func(w *ideal){
		"stepped by another program": func(w *ideal) { w.stepped(-time.Hour / 6) },
		"asleep": func(w *ideal) {
			w.now.Boot, w.now.Wall = w.now.Boot+8*time.Hour, w.now.Wall.Add(8*time.Hour-40*time.Second)
			w.truth += 40 * time.Second
		},
	} {
		w := newIdeal(t, nil).start(4 * time.Hour)
		w.midRound()
		happen(w)
		clear(w.silent)
		w.run(10 * time.Second)
		w.wantSynced(what, true)
	}
}

// TestReplacementsAreAsked: that every server denies does not keep the next ones
// from being asked.
func TestReplacementsAreAsked(t *testing.T) {
	w := newIdeal(t, func(c *Config) { c.Servers, c.Pools = nil, []string{"p.example"} })
	first := []netip.Addr{addr("2001:db8:101::1"), addr("2001:db8:102::1"), addr("2001:db8:103::1"), addr("2001:db8:104::1")}
	w.dns = map[string][]netip.Addr{"p.example": first}
	w.start(30 * time.Minute)
	for _, a := range first {
		w.kiss[a] = "DENY"
	}
	w.run(10 * time.Minute)
	w.dns["p.example"] = []netip.Addr{addr("2001:db8:201::1"), addr("2001:db8:202::1"), addr("2001:db8:203::1"), addr("2001:db8:204::1")}
	w.run(2 * time.Hour)
	if w.asked[addr("2001:db8:201::1")] < 3 {
		t.Errorf("asked: %v", w.asked)
	}
}

// TestSyncThatCannotBegin is refused at once, and one whose caller left is forgotten.
func TestSyncThatCannotBegin(t *testing.T) {
	w := newIdeal(t, nil).start(time.Hour)
	host := w.g.host
	w.step(HostSeen{Host{}})
	if why := w.order("sync", 0); !strings.Contains(why, "no default route") {
		t.Errorf("without a network: %q", why)
	}
	w.step(HostSeen{host})
	w.run(10 * time.Minute)
	for range maxOrders + 1 {
		w.order("sync", 0)
		w.step(Ordered{Key: w.g.orders.syncs[0].key, Verb: "leave"})
	}
	if len(w.g.orders.syncs) != 0 {
		t.Errorf("%d callers that left are waited for", len(w.g.orders.syncs))
	}
	w.run(10 * time.Minute)
	w.diskErr = errors.New("no space left on device")
	w.step(Ordered{Key: 1 << 62, Verb: "arm"})
	if why := w.order("sync", 0); !strings.Contains(why, "no space") {
		t.Errorf("without a ledger: %q", why)
	}
}

// TestAddressesThatCannotBeMade: rotation rests, visibly; the shield is not blamed.
func TestAddressesThatCannotBeMade(t *testing.T) {
	w := newIdeal(t, nil)
	w.addrErr = errors.New("add address: operation not permitted")
	w.start(10 * time.Minute)
	w.wantSynced("from the stable address", true)
	s := w.g.Status(w.now)
	if s.Shield.State != "in force" {
		t.Errorf("%+v", s.Shield)
	}
	for _, x := range s.Exposures {
		if x.Kind != "stable" && x.AskedAt != nil {
			t.Errorf("%+v", x)
		}
	}
	if !strings.Contains(strings.Join(w.notes, "\n"), "operation not permitted") {
		t.Errorf("nothing says why: %q", w.notes)
	}
}

// TestLostRecordsAreNotTakenForWritten: the journal's lines go first, and what
// waits for a record that was lost waits in vain.
func TestLostRecordsAreNotTakenForWritten(t *testing.T) {
	w := newIdeal(t, nil).start(time.Hour)
	g := w.g
	a := g.makeAddress(g.servers[0].addr, 40000, 8)
	for range 2 * maxRecords {
		g.note(KindShield, "lost")
	}
	if g.ledger.records[0].Key != a.record {
		t.Fatalf("the exposure was dropped before a line of the journal")
	}
	for range 2 * maxRecords {
		g.recordServer(g.servers[0], "")
	}
	g.recorded(Recorded{Upto: g.last})
	if g.ledger.wrote(a.record) {
		t.Error("a record that was dropped counts as written")
	}
	g.advanceAddresses()
	if a.phase != dead {
		t.Errorf("its address is in phase %d", a.phase)
	}
	if b := g.makeAddress(g.servers[0].addr, 40000, 8); true {
		g.recorded(Recorded{Upto: g.last})
		if !g.ledger.wrote(b.record) {
			t.Error("a later record does not count as written")
		}
	}
}
