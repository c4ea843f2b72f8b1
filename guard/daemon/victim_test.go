package daemon_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
	"ntpveil/guard/ipaddr"
	"ntpveil/guard/journal"
	"ntpveil/guard/lab"
	"ntpveil/guard/ledger"
	"ntpveil/guard/nft"
	"ntpveil/guard/query"
	"ntpveil/guard/resolve"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

const (
	victimDir  = "NTPVEIL_TEST_VICTIM" // where its ledger is
	victimCall = "NTPVEIL_TEST_CALL"   // before which adapter call it kills itself, as "grow 3"; empty: none
)

// victim is the daemon, with adapters that count. It says "synced" after its
// first sync and "over" when that has left no tuple open.
func victim(dir, call string) int {
	k := &killer{last: call, calls: map[string]int{}}
	book, err := ledger.Open(filepath.Join(dir, "ledger.db"))
	if err != nil {
		return complain(err)
	}
	table, err := nft.Open(0)
	if err != nil {
		return complain(err)
	}
	stack, err := ipaddr.Open(ipaddr.Options{})
	if err != nil {
		return complain(err)
	}
	parts := daemon.Parts{
		Shield: countedShield{table, k}, Addresses: countedAddresses{stack, k}, Facts: countedFacts{stack, k},
		Asker: countedAsker{&query.Asker{Now: sysclock.Mono}, k}, Resolver: countedResolver{&resolve.Resolver{Now: sysclock.Mono}, k},
		Ledger: countedLedger{book, k}, Clock: sysclock.Observer{Clock: sysclock.New(sysclock.Kernel, time.Time{})}, Jumps: sysclock.Jumps{}, Journal: journal.New(os.Stderr), Now: sysclock.Now,
	}
	_, _ = rand.Read(parts.Seed[:]) // never fails (crypto/rand)
	d := daemon.New(parts, guard.Config{
		Pools: []string{lab.Pool}, Use: 3, MinAgree: 2, PollMin: 64 * time.Second, PollMax: 1024 * time.Second, Observe: true,
		StepThreshold: time.Second, StepWhen: "start", MaxForward: time.Hour, MaxBackward: time.Hour,
		Rotate: "query", Keep: time.Hour, MaxAddrs: 8, Shield: rules.Enforce, Preset: "workstation", Hold: time.Minute, IfImpossible: "wait",
	})
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	go k.watch(ctx, d)
	if err := d.Run(ctx); err != nil {
		return complain(err)
	}
	return 0
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "victim:", err)
	return 1
}

// killer counts the calls, and ends the process before one of them.
type killer struct {
	mu     sync.Mutex
	last   string         // the call before which it ends; empty: none
	calls  map[string]int // how often each was made so far
	wish   string         // what the kernel worker is at; it alone touches it
	synced bool
	over   bool
}

// before names a call by what it is about, so that the same name means the same
// moment in every run, however often the worker looks in between.
func (k *killer) before(call string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		return
	}
	k.calls[call]++
	call = fmt.Sprintf("%s %d", call, k.calls[call])
	fmt.Println("call", call)
	if call == k.last {
		die()
	}
}

// watch says when the first sync agreed.
func (k *killer) watch(ctx context.Context, d *daemon.Daemon) {
	for {
		s, changed, err := d.Status(ctx)
		if err != nil {
			return
		}
		if s.Synchronized {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.synced = true
	fmt.Println("synced")
}

// saw ends the count when the sync is over and its tuples are gone.
func (k *killer) saw(s rules.Shield) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.synced || k.over || len(s.Solicited) > 0 {
		return
	}
	k.over = true
	fmt.Println("over")
	if k.last != "" { // the call did not come this time: as good a moment as any
		die()
	}
}

func die() {
	_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {}
}

type countedShield struct {
	*nft.Shield
	k *killer
}

func (c countedShield) Grow(now time.Duration, want rules.Shield) error {
	c.k.wish = fmt.Sprintf("(%d exposed, %d solicited)", len(want.Exposed), len(want.Solicited))
	c.k.before("grow " + c.k.wish)
	return c.Shield.Grow(now, want)
}

func (c countedShield) Shrink(now time.Duration, want rules.Shield) error {
	c.k.before("shrink " + c.k.wish)
	return c.Shield.Shrink(now, want)
}

func (c countedShield) Seen(now time.Duration) (rules.Shield, error) {
	c.k.before("shield seen " + c.k.wish)
	s, err := c.Shield.Seen(now)
	c.k.saw(s)
	return s, err
}

type countedAddresses struct {
	*ipaddr.Stack
	k *killer
}

func (c countedAddresses) Set(now time.Duration, want []guard.Addr) error {
	c.k.before(fmt.Sprintf("set (%d addresses)", len(want)))
	return c.Stack.Set(now, want)
}

func (c countedAddresses) Seen(now time.Duration) ([]guard.Addr, []netip.Addr, error) {
	c.k.before("addresses seen " + c.k.wish)
	return c.Stack.Seen(now)
}

type countedFacts struct {
	*ipaddr.Stack
	k *killer
}

func (c countedFacts) Host(prefer string) (guard.Host, error) {
	c.k.before("host")
	return c.Stack.Host(prefer)
}

type countedAsker struct {
	*query.Asker
	k *killer
}

func (c countedAsker) Ask(ctx context.Context, ask guard.Ask, answered func(guard.Answered)) {
	c.k.before("ask")
	c.Asker.Ask(ctx, ask, func(a guard.Answered) {
		c.k.before("answered")
		answered(a)
	})
}

type countedResolver struct {
	*resolve.Resolver
	k *killer
}

func (c countedResolver) Lookup(ctx context.Context, job guard.Lookup) guard.Resolved {
	c.k.before("lookup")
	return c.Resolver.Lookup(ctx, job)
}

type countedLedger struct {
	*ledger.Ledger
	k *killer
}

func (c countedLedger) Load() (guard.Snapshot, error) {
	c.k.before("load")
	return c.Ledger.Load()
}

func (c countedLedger) Write(records []guard.Record) error {
	c.k.before("write")
	return c.Ledger.Write(records)
}
