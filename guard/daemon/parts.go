package daemon

import (
	"context"
	"net/netip"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// What the daemon consumes of its adapters. Each has a model in package
// guardtest, and one conformance suite runs against both. No adapter retries:
// an error goes to the core, and the core decides.

// Shield makes the kernel's table match a wish (package nft).
type Shield interface {
	// Grow adds what want has and the kernel lacks: the frame (chains, rules,
	// devices), elements, longer deadlines. It takes nothing away, but for rules
	// of a frame that it replaces in one batch. now is CLOCK_MONOTONIC.
	Grow(now time.Duration, want rules.Shield) error
	// Shrink takes away what the kernel has and want lacks: solicited tuples,
	// neighbourhoods, trusted prefixes, devices. Exposed elements are never taken
	// away; they run out. A want of mode Off removes the table.
	Shrink(now time.Duration, want rules.Shield) error
	// Block makes the lists of blocked prefixes those that want has: all of them or,
	// after an error, those that were in force. Grow and Shrink leave them as they
	// are, unless the whole table is made anew. It reports whether it changed anything,
	// and gives up when ctx is done: nothing else can be done meanwhile.
	Block(ctx context.Context, now time.Duration, want rules.Shield) (changed bool, err error)
	// Seen is what is in force, read back from the kernel; Mode Off where there
	// is no table of ours.
	Seen(now time.Duration) (rules.Shield, error)
	// Watch calls lost whenever somebody else changed or removed the table, with
	// the name and PID of who did it where known. It returns when ctx is done.
	Watch(ctx context.Context, lost func(culprit string)) error
	Close() error
}

// Addresses makes the throw-away addresses match a wish (package ipaddr).
type Addresses interface {
	// Set adds what is missing and removes what it was once asked for and is
	// asked for no longer. It never touches any other address and does not wait
	// for DAD. An address that vanished is put back by nobody: see Lost.
	Set(now time.Duration, want []guard.Addr) error
	// Seen lists every address of our shape, and those that are ready: DAD done
	// and the gateway met.
	Seen(now time.Duration) (all []guard.Addr, ready []netip.Addr, err error)
}

// Facts tells what the core needs to know of the host (package ipaddr).
type Facts interface {
	// Host reads everything anew. prefer is the configured interface or empty.
	Host(prefer string) (guard.Host, error)
	// Watch calls changed after every change of links, addresses, routes or
	// readiness (coalesced, at most some 20 a second); it returns when ctx is done.
	Watch(ctx context.Context, changed func()) error
}

// Asker makes one exchange (package query). It calls answered exactly once,
// then keeps the socket open until ctx is done, and returns.
type Asker interface {
	Ask(ctx context.Context, ask guard.Ask, answered func(guard.Answered))
}

// Keyer makes one NTS key exchange (package nts).
type Keyer interface {
	Key(ctx context.Context, job guard.Keying) guard.Keyed
}

// Resolver turns a name into addresses (package resolve).
type Resolver interface {
	Lookup(ctx context.Context, job guard.Lookup) guard.Resolved
}

// Clock corrects the host's clock, or pretends to (package sysclock).
type Clock interface {
	Look() guard.ClockSeen // at start: the frequency, and what was saved
	Fix(fix guard.Fix) guard.ClockSeen
	// Save keeps the time for the next boot. It may take as long as a disk does, and
	// runs beside a Fix.
	Save(s guard.Save) guard.Saved
}

// Jumps tells of jumps of the clock (package sysclock).
type Jumps interface {
	// Watch calls jumped after every jump and after a resume; ours may be among
	// them. It returns when ctx is done.
	Watch(ctx context.Context, jumped func()) error
}

// Ledger remembers across restarts (package ledger).
type Ledger interface {
	Load() (guard.Snapshot, error)
	// Write stores records durably, in order: all of them or an error.
	Write(records []guard.Record) error
	Close() error
}

// Journal tells the admin and the service manager (package journal).
type Journal interface {
	Write(r guard.Record)
	Notify(state string) // sd_notify: READY=1, STATUS=…, WATCHDOG=1, RELOADING=1, STOPPING=1
}
