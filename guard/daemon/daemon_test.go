package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/selection"
	"ntpveil/rules"
)

// fake is every part at once: it does what it is asked, and writes it down.
type fake struct {
	mu      sync.Mutex
	calls   []string
	fail    map[string]error
	shield  rules.Shield
	blocked []rules.List
	slow    chan struct{} // closed when Block begins, which then takes until it is told to give up
	addrs   []guard.Addr
	records []guard.Record
	notes   []string
	told    chan string // sd_notify states
	lost    func(string)
	changed func()
	jumped  chan func()
	ahead   time.Duration // of the wall clock
	conf    guard.Config
	confErr error
}

func newFake() *fake {
	return &fake{fail: map[string]error{}, told: make(chan string, 1024), jumped: make(chan func(), 1), conf: testConfig()}
}

func testConfig() guard.Config {
	return guard.Config{
		Servers: []guard.Server{{Host: "2001:db8:101::1", Port: 123}}, Use: 4, MinAgree: 1,
		PollMin: 64 * time.Second, PollMax: 1024 * time.Second, Observe: true,
		StepThreshold: time.Second, StepWhen: "start", MaxForward: time.Hour, MaxBackward: time.Hour,
		Rotate: "query", Keep: time.Hour, MaxAddrs: 8, Shield: rules.Enforce, Preset: "workstation", Hold: time.Minute, IfImpossible: "wait",
	}
}

func (f *fake) call(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	return f.fail[name]
}

func (f *fake) Grow(_ time.Duration, want rules.Shield) error {
	if err := f.call("grow"); err != nil {
		return err
	}
	f.mu.Lock()
	f.shield = want
	f.mu.Unlock()
	return nil
}

func (f *fake) Shrink(time.Duration, rules.Shield) error { return f.call("shrink") }

func (f *fake) Block(ctx context.Context, _ time.Duration, want rules.Shield) (bool, error) {
	if f.slow != nil && len(want.Lists) > 0 {
		close(f.slow)
		<-ctx.Done()
		return false, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["block"]; err != nil || rules.SameLists(f.blocked, want.Lists) {
		return false, err
	}
	f.blocked = want.Lists
	return true, nil
}

func (f *fake) Seen(time.Duration) (rules.Shield, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.shield
	out.Lists = f.blocked
	return out, nil
}

func (f *fake) Watch(ctx context.Context, lost func(string)) error {
	f.mu.Lock()
	f.lost = lost
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (f *fake) Close() error { return nil }

// addresses, facts and ledger have methods of the same names.
type (
	fakeAddrs  struct{ *fake }
	fakeFacts  struct{ *fake }
	fakeLedger struct{ *fake }
	fakeJumps  struct{ *fake }
	fakeRest   struct{ *fake }
)

func (f fakeAddrs) Set(_ time.Duration, want []guard.Addr) error {
	if err := f.call("set"); err != nil {
		return err
	}
	f.mu.Lock()
	f.addrs = want
	f.mu.Unlock()
	return nil
}

func (f fakeAddrs) Seen(time.Duration) ([]guard.Addr, []netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ready []netip.Addr
	for _, a := range f.addrs {
		ready = append(ready, a.Addr)
	}
	return slices.Clone(f.addrs), ready, nil
}

func (f fakeFacts) Host(string) (guard.Host, error) {
	me := netip.MustParseAddr("2001:db8:1::10")
	return guard.Host{BootID: "b", Link: guard.Link{Index: 2, Name: "eth0"}, Addrs: []netip.Addr{me}, LinkAddrs: []netip.Addr{me},
		Preferred: []netip.Addr{me}, Prefix: netip.MustParsePrefix("2001:db8:1::/64"), Route6: true, Source6: me, Devices: []string{"eth0"}}, nil
}

func (f fakeFacts) Watch(ctx context.Context, changed func()) error {
	f.mu.Lock()
	f.changed = changed
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (f fakeJumps) Watch(ctx context.Context, jumped func()) error {
	f.jumped <- jumped
	<-ctx.Done()
	return f.fail["watch clock"]
}

func (f fakeLedger) Load() (guard.Snapshot, error) { return guard.Snapshot{}, f.call("load") }

func (f fakeLedger) Write(r []guard.Record) error {
	if err := f.call("write"); err != nil {
		return err
	}
	f.mu.Lock()
	f.records = append(f.records, r...)
	f.mu.Unlock()
	return nil
}

func (f fakeLedger) Close() error { return nil }

func (f fakeRest) Ask(ctx context.Context, ask guard.Ask, answered func(guard.Answered)) {
	_ = f.call("ask")
	answered(guard.Answered{Key: ask.Key, Sample: selection.Sample{Server: ask.To, At: now().Mono, Delay: time.Millisecond, Stratum: 1}})
	<-ctx.Done()
}

func (f fakeRest) Key(_ context.Context, job guard.Keying) guard.Keyed {
	_ = f.call("key")
	if !job.Granted() {
		_ = f.call("key without a pass")
	}
	return guard.Keyed{Key: job.Key, Port: 123, Keys: guard.NTSKeys{AEAD: 15, NotAfter: time.Now().Add(time.Hour)}, Cookies: []guard.Secret{guard.Secret("c00kie!")}}
}

func (f fakeRest) Lookup(_ context.Context, job guard.Lookup) guard.Resolved {
	return guard.Resolved{Key: job.Key, Err: errors.New("no such host")}
}

func (f fakeRest) Look() guard.ClockSeen { return guard.ClockSeen{} }

func (f fakeRest) Fix(fix guard.Fix) guard.ClockSeen {
	_ = f.call("fix")
	return guard.ClockSeen{Key: fix.Key, Made: fix.Step}
}

func (f fakeRest) Save(s guard.Save) guard.Saved {
	return guard.Saved{Key: s.Key, Err: f.call(fmt.Sprintf("save synced=%t", s.Synced))}
}

func (f fakeRest) Write(r guard.Record) {
	f.mu.Lock()
	f.notes = append(f.notes, r.Text)
	f.mu.Unlock()
}

// choose knows the presets that are built in.
func (f *fake) choose(preset string) (guard.Config, error) {
	all, _ := rules.ReadPresets(nil)
	p, known := all[preset]
	if !known {
		return guard.Config{}, errors.New("no such preset")
	}
	c := f.conf
	c.Plain = p
	p = c.Over(p)
	c.Preset, c.Choices, c.Allow, c.Hold, c.LogGroup, c.Trusted = p.Name, p.Choices, p.Allow, p.Hold, p.LogGroup, p.Trusted
	return c, nil
}

func (f fakeRest) Notify(state string) { f.told <- state }

var began = time.Now()

func now() guard.Instant {
	d := time.Since(began) + time.Hour
	return guard.Instant{Mono: d, Boot: d, Wall: time.Now()}
}

// now shows a wall clock that a test may have set.
func (f *fake) now() guard.Instant {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := now()
	at.Wall = at.Wall.Add(f.ahead)
	return at
}

// run starts a daemon of fakes; the returned function stops it in order and
// gives its error.
func run(t *testing.T, f *fake, change ...func(*Parts)) (*Daemon, func() error) {
	t.Helper()
	p := Parts{Shield: f, Addresses: fakeAddrs{f}, Facts: fakeFacts{f}, Asker: fakeRest{f}, Keyer: fakeRest{f}, Resolver: fakeRest{f}, Clock: fakeRest{f}, Jumps: fakeJumps{f},
		Ledger: fakeLedger{f}, Journal: fakeRest{f}, Now: f.now, Load: func() (guard.Config, error) { return f.conf, f.confErr }, Choose: f.choose, Version: "test", Build: began.AddDate(-1, 0, 0),
		Watchdog: 30 * time.Millisecond}
	for _, c := range change {
		c(&p)
	}
	d := New(p, f.conf)
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- d.Run(ctx) }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-end
	}
	t.Cleanup(func() { _ = stop() })
	return d, stop
}

// await waits for a state of sd_notify that begins so.
func await(t *testing.T, f *fake, prefix string) string {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case s := <-f.told:
			if strings.HasPrefix(s, prefix) {
				return s
			}
		case <-deadline:
			t.Fatalf("no %s; calls: %v", prefix, f.history())
		}
	}
}

func (f *fake) history() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func TestSyncsAndStopsInOrder(t *testing.T) {
	f := newFake()
	d, stop := run(t, f)
	await(t, f, "READY=1")
	await(t, f, "STATUS=synchronised")
	await(t, f, "WATCHDOG=1")

	s, _, err := d.Status(t.Context())
	if err != nil || !s.Synchronized || s.Version != "test" || s.Shield.State != "in force" {
		t.Errorf("status %+v, error %v", s, err)
	}
	f.mu.Lock()
	exposed, asked := f.shield.Exposed, slices.Index(f.calls, "ask")
	f.mu.Unlock()
	if len(exposed) == 0 || asked < 0 {
		t.Errorf("exposed %v, calls %v", exposed, f.history())
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if len(f.addrs) != 0 {
		t.Errorf("addresses stay after a stop: %v", f.addrs)
	}
	if _, _, err := d.Status(context.Background()); !errors.Is(err, errStopped) {
		t.Errorf("status after the stop: %v", err)
	}
}

func TestTheClockIsSavedAtASyncAndAtTheStop(t *testing.T) {
	f := newFake()
	f.conf.Observe = false
	f.fail["save synced=true"] = errors.New("save clock: read-only file system")
	_, stop := run(t, f)
	await(t, f, "STATUS=synchronised")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	saves := 0
	for _, call := range f.history() {
		if call == "save synced=true" {
			saves++
		}
	}
	if saves != 2 {
		t.Errorf("saved %d times: %v", saves, f.history())
	}
	if slices.Index(f.notes, "save clock: read-only file system") < 0 {
		t.Errorf("the failure was not said: %q", f.notes)
	}
}

// TestAJumpIsHandledAtOnce: the loop has nothing to do until the next sync.
func TestAJumpIsHandledAtOnce(t *testing.T) {
	f := newFake()
	d, stop := run(t, f)
	await(t, f, "STATUS=synchronised")
	f.mu.Lock()
	f.ahead = time.Hour
	f.mu.Unlock()
	(<-f.jumped)()
	for {
		_, changed, err := d.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		said := slices.ContainsFunc(f.notes, func(s string) bool { return strings.HasPrefix(s, "the clock was stepped by 1h0m0s by another program") })
		f.mu.Unlock()
		if said {
			break
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing was said of the jump: %q", f.notes)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAWatchThatFailsIsNamed(t *testing.T) {
	f := newFake()
	f.fail["watch clock"] = errors.New("no timers here")
	_, stop := run(t, f)
	await(t, f, "READY=1")
	if err := stop(); err == nil || err.Error() != "watch clock: no timers here" {
		t.Error(err)
	}
}

// TestKeysBeforeTheQuery: a host of time.nts is asked when its key exchange is
// over, each once, and neither key nor cookie is told to anybody.
func TestKeysBeforeTheQuery(t *testing.T) {
	f := newFake()
	f.conf.Servers, f.conf.NTS = nil, []guard.Server{{Host: "2001:db8:101::1", Port: 4460}}
	_, stop := run(t, f)
	await(t, f, "STATUS=synchronised")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var jobs []string
	for _, c := range f.history() {
		if strings.HasPrefix(c, "key") || c == "ask" {
			jobs = append(jobs, c)
		}
	}
	if got := fmt.Sprint(jobs); got != "[key ask]" {
		t.Errorf("jobs %s", got)
	}
	kept := false
	for _, r := range f.records {
		kept = kept || r.NTS != nil && len(r.NTS.Cookies) > 0
	}
	if text := strings.Join(f.notes, "\n"); !kept || strings.Contains(text, "c00kie!") {
		t.Errorf("kept %t, said %s", kept, text)
	}
}

func TestKernelWorkerOrder(t *testing.T) {
	f := newFake()
	var seen []guard.KernelSeen
	k := newKernel(f, fakeAddrs{f}, func() time.Duration { return time.Hour }, func(s guard.KernelSeen) { seen = append(seen, s) })
	k.want(guard.Kernel{Act: true, Shield: rules.Shield{Mode: rules.Enforce}})
	_ = k.work(t.Context())
	if got := fmt.Sprint(f.history()); got != "[grow set shrink]" {
		t.Errorf("calls %s", got)
	}
	for stage, want := range map[string]string{"grow": "[grow]", "set": "[grow set]", "shrink": "[grow set shrink]"} {
		f.calls, f.fail = nil, map[string]error{stage: errors.New("no")}
		seen = nil
		if err := k.work(t.Context()); err == nil || !strings.Contains(err.Error(), stage) {
			t.Errorf("%s fails: error %v", stage, err)
		}
		if got := fmt.Sprint(f.history()); got != want {
			t.Errorf("%s fails: calls %s, want %s", stage, got, want)
		}
		if len(seen) != 1 || (seen[0].Err == nil) != (stage == "set") || (seen[0].AddrErr == nil) == (stage == "set") || seen[0].Kernel.Shield.Mode != rules.Enforce {
			t.Errorf("%s fails: reported %+v", stage, seen)
		}
	}
}

func TestNothingIsTouchedBeforeTheFirstWish(t *testing.T) {
	f := newFake()
	k := newKernel(f, fakeAddrs{f}, func() time.Duration { return time.Hour }, func(guard.KernelSeen) {})
	_ = k.work(t.Context())
	if len(f.history()) != 0 {
		t.Errorf("calls %v", f.history())
	}
}

// TestListsComeLast: after all else was reported; their error is in every report until
// it is over, and closes no gate.
func TestListsComeLast(t *testing.T) {
	f := newFake()
	var seen []guard.KernelSeen
	k := newKernel(f, fakeAddrs{f}, func() time.Duration { return time.Hour }, func(s guard.KernelSeen) { seen = append(seen, s) })
	wish := guard.Kernel{Act: true, Shield: rules.Shield{Mode: rules.Enforce, Lists: []rules.List{{Name: "/a", Digest: [32]byte{1}}}}}
	k.want(wish)
	f.fail = map[string]error{"block": errors.New("no such file")}
	if err := k.work(t.Context()); err == nil || len(seen) != 2 || seen[0].ListErr != nil || seen[1].ListErr == nil || seen[1].Err != nil {
		t.Errorf("%v, reported %+v", err, seen)
	}
	seen = nil
	if err := k.work(t.Context()); err == nil || seen[0].ListErr == nil {
		t.Errorf("%v, reported %+v", err, seen)
	}
	f.fail, seen = nil, nil
	if err := k.work(t.Context()); err != nil || len(seen) != 2 || seen[1].ListErr != nil || len(seen[1].Kernel.Shield.Lists) != 1 {
		t.Errorf("%v, reported %+v", err, seen)
	}
}

// TestNobodyWaitsForLists: another wish has the worker give lists up for now.
func TestNobodyWaitsForLists(t *testing.T) {
	f := newFake()
	f.slow = make(chan struct{})
	k := newKernel(f, fakeAddrs{f}, func() time.Duration { return time.Hour }, func(guard.KernelSeen) {})
	wish := guard.Kernel{Act: true, Shield: rules.Shield{Mode: rules.Enforce, Lists: []rules.List{{Name: "/a", Digest: [32]byte{1}}}}}
	k.want(wish)
	done := make(chan error)
	go func() { done <- k.work(t.Context()) }()
	<-f.slow
	wish.Shield.Hold = time.Minute
	k.want(wish)
	if err := <-done; err != nil || k.listErr != nil {
		t.Errorf("%v, %v", err, k.listErr)
	}
	f.slow = nil
	if err := k.work(t.Context()); err != nil || len(f.blocked) != 1 {
		t.Errorf("%v, %d lists", err, len(f.blocked))
	}
}

// TestAStopThatEndsWithinALook ends: whoever steps the last event of it.
func TestAStopThatEndsWithinALook(t *testing.T) {
	f := newFake()
	d, stop := run(t, f)
	await(t, f, "STATUS=synchronised")
	err := d.do(t.Context(), func() {
		for !d.step(guard.Ordered{Key: d.orderKey(), Verb: "stop"}) {
			d.step(<-d.events)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.stopped:
	case <-time.After(2 * time.Second):
		t.Error("the loop goes on")
	}
	_ = stop()
}

// endless has lists that are never read to their end.
type endless struct{ *fake }

func (e endless) Block(ctx context.Context, _ time.Duration, _ rules.Shield) (bool, error) {
	_ = e.call("block")
	<-ctx.Done()
	return false, ctx.Err()
}

// TestNoStopWaitsForLists: neither for those that are being read, nor for those that
// the last pass would read.
func TestNoStopWaitsForLists(t *testing.T) {
	f := newFake()
	f.conf.Lists = []rules.List{{Name: "/a", Digest: [32]byte{1}}}
	d, stop := run(t, f, func(p *Parts) { p.Shield = endless{f} })
	await(t, f, "STATUS=synchronised")
	for !slices.Contains(f.history(), "block") {
		time.Sleep(time.Millisecond)
	}
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	select {
	case err := <-ended:
		if err != nil || len(f.addrs) != 0 {
			t.Errorf("addresses %v, error %v", f.addrs, err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the lists are still being read")
		d.kernel.mu.Lock()
		d.kernel.giveUp()
		d.kernel.mu.Unlock()
	}
}

func TestLossIsReportedBeforeItIsMended(t *testing.T) {
	f := newFake()
	var seen []guard.KernelSeen
	k := newKernel(f, fakeAddrs{f}, func() time.Duration { return time.Hour }, func(s guard.KernelSeen) { seen = append(seen, s) })
	k.want(guard.Kernel{Act: true, Shield: rules.Shield{Mode: rules.Enforce}})
	_ = k.work(t.Context())
	f.shield = rules.Shield{}
	seen = nil
	k.lost("nft (42)")
	_ = k.work(t.Context())
	if len(seen) != 2 || seen[0].Kernel.Shield.Mode != rules.Off || seen[0].Culprit != "" || seen[1].Kernel.Shield.Mode != rules.Enforce || seen[1].Culprit != "nft (42)" {
		t.Errorf("reported %+v", seen)
	}
}

// TestALossIsOverWhenItIsMended: a first attempt that failed does not end the
// time for which the shield was off.
func TestALossIsOverWhenItIsMended(t *testing.T) {
	f := newFake()
	var seen []guard.KernelSeen
	at := time.Hour
	k := newKernel(f, fakeAddrs{f}, func() time.Duration { return at }, func(s guard.KernelSeen) { seen = append(seen, s) })
	k.want(guard.Kernel{Act: true, Shield: rules.Shield{Mode: rules.Enforce}})
	_ = k.work(t.Context())
	f.shield, f.fail = rules.Shield{}, map[string]error{"grow": errors.New("somebody keeps changing the rule sets")}
	k.lost("nft (42)")
	_ = k.work(t.Context())
	if last := seen[len(seen)-1]; last.Culprit != "" || last.Err == nil {
		t.Errorf("reported while it is off: %+v", last)
	}
	f.fail, at = nil, at+time.Second
	k.lost("nft (43)")
	_ = k.work(t.Context())
	if last := seen[len(seen)-1]; last.Culprit != "nft (42)" || last.OffFor != time.Second || last.Kernel.Shield.Mode != rules.Enforce {
		t.Errorf("reported once it is back: %+v", last)
	}
}

// TestAShieldThatVanishedUnderTheWorkIsPutBackSoon, though nobody told of it: the
// kernel's messages may have been lost.
func TestAShieldThatVanishedUnderTheWorkIsPutBackSoon(t *testing.T) {
	for name, left := range map[string]rules.Shield{"table": {}, "device": {Mode: rules.Enforce}} {
		f := &flushed{fake: newFake(), left: left}
		k := newKernel(f, fakeAddrs{f.fake}, func() time.Duration { return time.Hour }, func(guard.KernelSeen) {})
		k.want(guard.Kernel{Act: true, Shield: rules.Shield{Mode: rules.Enforce, Devices: []string{"eth0"}}})
		if err := k.work(t.Context()); err == nil {
			t.Errorf("%s: nothing is wrong, it thinks, and looks again in %s", name, lookEvery)
		}
		f.goOn = true
		if err := k.work(t.Context()); err != nil {
			t.Errorf("%s: once it stays: %v", name, err)
		}
	}
}

// flushed is a shield that somebody changes as soon as it is put up.
type flushed struct {
	*fake
	left rules.Shield
	goOn bool
}

func (f *flushed) Shrink(now time.Duration, want rules.Shield) error {
	if !f.goOn {
		f.shield = f.left
	}
	return f.fake.Shrink(now, want)
}

// TestHostIsReadByOneAtATime: facts that were read before a change must not be
// told after those that were read after it.
func TestHostIsReadByOneAtATime(t *testing.T) {
	f := &slowFacts{fakeFacts: fakeFacts{newFake()}, reading: make(chan struct{}, 2), goOn: make(chan struct{})}
	d := New(Parts{Facts: f, Now: now, Journal: fakeRest{f.fake}}, f.conf)
	for range 2 {
		go d.readHost()
	}
	<-f.reading
	select {
	case <-f.reading:
		t.Error("two read at the same time")
	case <-time.After(100 * time.Millisecond):
	}
	close(f.goOn)
	for range 2 {
		<-d.events
	}
}

// slowFacts takes its time.
type slowFacts struct {
	fakeFacts
	reading, goOn chan struct{}
}

func (f *slowFacts) Host(prefer string) (guard.Host, error) {
	f.reading <- struct{}{}
	<-f.goOn
	return f.fakeFacts.Host(prefer)
}

func TestAWishAsTheLastWakesNobody(t *testing.T) {
	f := newFake()
	k := newKernel(f, fakeAddrs{f}, func() time.Duration { return 0 }, func(guard.KernelSeen) {})
	wish := guard.Kernel{Act: true, Shield: rules.Shield{Mode: rules.Enforce}}
	k.want(wish)
	<-k.poked
	k.want(wish)
	select {
	case <-k.poked:
		t.Error("the worker was woken by the same wish")
	default:
	}
}

func TestReloadIsAllOrNothing(t *testing.T) {
	f := newFake()
	d, _ := run(t, f)
	await(t, f, "STATUS=synchronised")
	f.confErr = errors.New("ntpveil.toml:3:1: unknown key")
	if err := d.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing changed") {
		t.Errorf("reload of a bad configuration: %v", err)
	}
	await(t, f, "READY=1")
	f.confErr = nil
	f.conf.Shield = rules.Observe
	if err := d.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitShield(t, d, "observing")
	f.conf.Ledger = "/elsewhere"
	if err := d.Reload(t.Context()); err == nil {
		t.Error("another ledger was taken without a restart")
	}
}

func awaitShield(t *testing.T, d *Daemon, state string) {
	t.Helper()
	for {
		s, changed, err := d.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Shield.State == state {
			return
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("shield is %q, want %q", s.Shield.State, state)
		}
	}
}

func TestOrders(t *testing.T) {
	f := newFake()
	d, _ := run(t, f)
	await(t, f, "STATUS=synchronised")
	if err := d.Order(t.Context(), "disarm", time.Hour); err != nil {
		t.Error(err)
	}
	awaitShield(t, d, "disarmed")
	if err := d.Order(t.Context(), "arm", 0); err != nil {
		t.Error(err)
	}
	awaitShield(t, d, "in force")
	if err := d.Order(t.Context(), "disarm", 48*time.Hour); err == nil {
		t.Error("a disarm for two days was taken")
	}
	if err := d.Order(t.Context(), "dance", 0); err == nil {
		t.Error("an unknown order was taken")
	}
	if err := d.Order(t.Context(), "sync", 0); err != nil {
		t.Error(err)
	}
}

func TestAnImpossibleShieldIsReadyAndSilent(t *testing.T) {
	f := newFake()
	f.fail["grow"] = errors.New("operation not permitted")
	d, stop := run(t, f)
	await(t, f, "READY=1")
	s, _, err := d.Status(t.Context())
	if err != nil || s.Synchronized || s.Shield.State != "lost" {
		t.Errorf("status %+v, error %v", s.Shield, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if slices.Contains(f.history(), "ask") {
		t.Error("a query left without the shield")
	}
}

func TestRecorderKeepsOrderAndAcknowledgesOnce(t *testing.T) {
	f := newFake()
	var acks []guard.Recorded
	r := newRecorder(fakeLedger{f}, fakeRest{f}, func(a guard.Recorded) { acks = append(acks, a) })
	record := func(k guard.Key) guard.Record {
		return guard.Record{Key: k, Text: fmt.Sprint("record ", k), Pool: &guard.PoolRecord{Name: fmt.Sprint(k)}}
	}
	f.fail["write"] = errors.New("no space left on device")
	r.want([]guard.Record{record(1), record(2)})
	r.write()
	f.fail = map[string]error{}
	r.want([]guard.Record{record(1), record(2), record(3)})
	r.write()
	r.write()
	if len(f.records) != 3 || f.records[0].Key != 1 || f.records[2].Key != 3 {
		t.Errorf("written %v", f.records)
	}
	if fmt.Sprint(f.notes) != "[record 1 record 2 record 3]" {
		t.Errorf("journal %v", f.notes)
	}
	if len(acks) != 2 || acks[0].Err == nil || acks[1].Upto != 3 || acks[1].Err != nil {
		t.Errorf("acknowledged %+v", acks)
	}
}

func TestJobsBeginOnceAndAreCancelled(t *testing.T) {
	j := newJobs(context.Background())
	begun, ended := make(chan guard.Key, 9), make(chan guard.Key, 9)
	work := func(k guard.Key) func(context.Context) {
		return func(ctx context.Context) { begun <- k; <-ctx.Done(); ended <- k }
	}
	j.match(map[guard.Key]func(context.Context){1: work(1), 2: work(2)})
	j.match(map[guard.Key]func(context.Context){2: work(2)})
	if k := <-ended; k != 1 {
		t.Errorf("%d was cancelled", k)
	}
	j.stop()
	if n := len(begun); n != 2 {
		t.Errorf("%d jobs were begun, want 2", n)
	}
}
