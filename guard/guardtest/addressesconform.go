package guardtest

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
)

// AddressesBench is an implementation of daemon.Addresses and the world around
// it, for ConformAddresses.
type AddressesBench struct {
	Addresses daemon.Addresses
	Now       func() time.Duration
	Link      int
	Prefix    netip.Prefix // a /64 of the link
	Gateway   netip.Addr   // answers
	Silent    netip.Addr   // a gateway that does not
	Put       func(guard.Addr)
	Vanish    func(netip.Addr)
	Take      func(netip.Addr)
	Await     func(what string, cond func() bool) // returns when the condition holds; fails the test when it never does
}

// ConformAddresses is what every implementation of daemon.Addresses must do.
// open makes a new one; it is asked for one a test.
func ConformAddresses(t *testing.T, open func(t *testing.T) AddressesBench) {
	for name, test := range map[string]func(*bench){
		"adds":                         (*bench).adds,
		"is ready once":                (*bench).ready,
		"waits for a silent gateway":   (*bench).silent,
		"is idempotent":                (*bench).idempotent,
		"removes what it made":         (*bench).removes,
		"leaves others alone":          (*bench).leaves,
		"puts nothing back":            (*bench).vanished,
		"takes over":                   (*bench).adopts,
		"lets the kernel end it":       (*bench).expires,
		"makes nothing that is over":   (*bench).over,
		"shows a duplicate as absence": (*bench).taken,
	} {
		t.Run(name, func(t *testing.T) { test(&bench{open(t), t}) })
	}
}

type bench struct {
	AddressesBench
	t *testing.T
}

// addr is the nth address of the test.
func (b *bench) addr(n byte) guard.Addr {
	a := b.Prefix.Addr().As16()
	a[8], a[15] = 0xc0, n
	return guard.Addr{Addr: netip.AddrFrom16(a), Link: b.Link, Until: b.Now() + time.Hour, Meet: b.Gateway}
}

func (b *bench) set(want ...guard.Addr) {
	b.t.Helper()
	if err := b.Addresses.Set(b.Now(), want); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) seen() (all []guard.Addr, ready []netip.Addr) {
	b.t.Helper()
	all, ready, err := b.Addresses.Seen(b.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	if !slices.IsSortedFunc(all, func(a, b guard.Addr) int { return a.Addr.Compare(b.Addr) }) || !slices.IsSortedFunc(ready, netip.Addr.Compare) {
		b.t.Fatalf("not sorted: %v, ready %v", all, ready)
	}
	return all, ready
}

func (b *bench) holds(a guard.Addr) bool {
	all, _ := b.seen()
	return slices.ContainsFunc(all, func(x guard.Addr) bool { return x.Addr == a.Addr })
}

func (b *bench) isReady(a guard.Addr) bool {
	_, ready := b.seen()
	return slices.Contains(ready, a.Addr)
}

// want checks which addresses are there.
func (b *bench) want(addrs ...guard.Addr) {
	b.t.Helper()
	all, _ := b.seen()
	if len(all) != len(addrs) {
		b.t.Fatalf("seen %v, want %v", all, addrs)
	}
	for i, w := range addrs {
		if all[i].Addr != w.Addr || all[i].Link != w.Link {
			b.t.Fatalf("seen %v, want %v", all, addrs)
		}
	}
}

func (b *bench) adds() {
	x, y := b.addr(1), b.addr(2)
	b.set(y, x)
	b.want(x, y)
	all, _ := b.seen()
	if all[0].Meet != x.Meet {
		b.t.Errorf("meets %s, want %s", all[0].Meet, x.Meet)
	}
	if diff := all[0].Until - x.Until; diff.Abs() > 2*time.Second { // whole seconds, on either side
		b.t.Errorf("ends %s off its time", diff)
	}
}

func (b *bench) ready() {
	x := b.addr(1)
	b.set(x)
	if b.isReady(x) {
		b.t.Error("ready before duplicate address detection can be over")
	}
	b.Await("ready", func() bool { return b.isReady(x) })
	b.set()
	if b.isReady(x) {
		b.t.Error("ready, but gone")
	}
}

func (b *bench) silent() {
	x, y := b.addr(1), b.addr(2)
	x.Meet, y.Meet = b.Silent, netip.Addr{}
	b.set(x, y)
	b.Await("the one that meets nobody is ready", func() bool { return b.isReady(y) })
	if b.isReady(x) {
		b.t.Error("ready before the gateway could answer")
	}
	b.Await("the other is ready", func() bool { return b.isReady(x) })
}

func (b *bench) idempotent() {
	x := b.addr(1)
	b.set(x)
	b.Await("ready", func() bool { return b.isReady(x) })
	before, _ := b.seen()
	b.set(x)
	after, _ := b.seen()
	if !b.isReady(x) || len(after) != 1 || after[0].Until > before[0].Until+time.Second {
		b.t.Errorf("the same wish again changed %v to %v", before, after)
	}
}

func (b *bench) removes() {
	x, y := b.addr(1), b.addr(2)
	b.set(x, y)
	b.set(y)
	b.want(y)
	b.set()
	b.want()
}

func (b *bench) leaves() {
	other, x := b.addr(1), b.addr(2)
	b.Put(other)
	b.set(x)
	b.want(other, x)
	b.Await("ready", func() bool { return b.isReady(x) })
	if b.isReady(other) {
		b.t.Error("an address that nobody asked for is ready")
	}
	b.set()
	b.want(other)
}

func (b *bench) vanished() {
	x, y := b.addr(1), b.addr(2)
	b.set(x, y)
	b.Await("ready", func() bool { return b.isReady(x) })
	b.Vanish(x.Addr)
	b.want(y)
	b.set(x, y)
	b.want(y)
	if b.isReady(x) {
		b.t.Error("ready, but gone")
	}
}

func (b *bench) adopts() {
	x := b.addr(1)
	b.Put(x)
	b.set(x)
	b.want(x)
	b.Await("ready", func() bool { return b.isReady(x) })
	b.set()
	b.want()
}

func (b *bench) expires() {
	x, y := b.addr(1), b.addr(2)
	x.Until = b.Now() + 1500*time.Millisecond
	b.set(x, y)
	b.want(x, y)
	b.Await("gone in time", func() bool { return !b.holds(x) })
	if b.Now() < x.Until {
		b.t.Error("gone before its time")
	}
	b.set(x, y)
	b.want(y)
}

func (b *bench) over() {
	x := b.addr(1)
	x.Until = b.Now()
	b.set(x)
	b.want()
}

func (b *bench) taken() {
	x, y := b.addr(1), b.addr(2)
	b.Take(x.Addr)
	b.set(x, y)
	b.Await("the other is ready, this one gone", func() bool { return b.isReady(y) && !b.holds(x) })
	b.set(x, y)
	b.want(y)
}
