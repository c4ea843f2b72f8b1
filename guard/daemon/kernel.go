package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

const (
	lookEvery  = 30 * time.Second // a look without a reason: notices can be lost
	retryFirst = time.Second      // after an error, doubled up to retryMost
	retryMost  = 30 * time.Second
)

// kernel is the one worker of Plan.Kernel. It grows the shield, changes the
// addresses, shrinks the shield, in this order, and stops at the first error:
// applied independently, an address stood unguarded in every run that was tried.
// Then it reports what is.
type kernel struct {
	shield Shield
	addrs  Addresses
	now    func() time.Duration
	report func(guard.KernelSeen)

	poked chan struct{}
	looks chan chan struct{}

	mu      sync.Mutex
	wish    guard.Kernel
	culprit string
	lostAt  time.Duration

	giveUp context.CancelFunc // ends an attempt at the lists: there is something to do that cannot wait

	listErr error // of the last attempt at the lists; only the worker touches it
}

func newKernel(s Shield, a Addresses, now func() time.Duration, report func(guard.KernelSeen)) *kernel {
	return &kernel{shield: s, addrs: a, now: now, report: report, poked: make(chan struct{}, 1), looks: make(chan chan struct{}), giveUp: func() {}}
}

func (k *kernel) String() string { return "kernel worker" }

// want sets the wish; the latest wins. One that is as the last wakes nobody: the
// worker's own report leads to a plan, and that must not lead to another report.
func (k *kernel) want(w guard.Kernel) {
	k.mu.Lock()
	same := k.wish.Equal(w)
	if k.wish = w; !same {
		k.giveUp()
	}
	k.mu.Unlock()
	if !same {
		k.poke()
	}
}

// poke has the worker look and report, and mend what is not as wished.
func (k *kernel) poke() {
	select {
	case k.poked <- struct{}{}:
	default:
	}
}

// refresh has the worker look and report, and waits until it has.
func (k *kernel) refresh(ctx context.Context) error {
	looked := make(chan struct{})
	select {
	case k.looks <- looked:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-looked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost is called by the shield's watch.
func (k *kernel) lost(culprit string) {
	k.mu.Lock()
	if k.culprit == "" {
		k.culprit, k.lostAt = culprit, k.now()
	}
	k.giveUp()
	k.mu.Unlock()
	k.poke()
}

// Run works until ctx is done.
func (k *kernel) Run(ctx context.Context) error {
	pause := retryFirst
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	var looked chan struct{} // somebody waits for this pass
	for {
		err := k.work(ctx)
		if looked != nil {
			close(looked)
		}
		if err != nil {
			timer.Reset(pause)
			pause = min(2*pause, retryMost)
		} else {
			timer.Reset(lookEvery)
			pause = retryFirst
		}
		looked = nil
		select {
		case <-ctx.Done():
			return nil
		case <-k.poked:
		case looked = <-k.looks:
		case <-timer.C:
		}
	}
}

// work does one pass: apply, look, report. When ctx is done lists are left alone.
func (k *kernel) work(ctx context.Context) (err error) {
	k.mu.Lock()
	wish, culprit, lostAt := k.wish, k.culprit, k.lostAt
	k.culprit = ""
	k.mu.Unlock()

	if culprit != "" {
		k.report(k.look(nil, nil)) // close the gate before anything is put back
	}
	shieldErr, addrErr := k.apply(wish)
	seen := k.look(shieldErr, addrErr)
	switch {
	case culprit == "":
	case shieldErr == nil:
		seen.Culprit, seen.OffFor = culprit, k.now()-lostAt
	default: // it is still off: to be told when it is back
		k.mu.Lock()
		k.culprit, k.lostAt = culprit, lostAt
		k.mu.Unlock()
	}
	k.report(seen)
	if shieldErr == nil {
		err = k.block(ctx, wish)
	}
	return cmp.Or(err, seen.Err, seen.AddrErr, asWished(wish, seen.Kernel.Shield))
}

// asWished says what is not in force though it was just put up: somebody was
// quicker, and the message of it may be lost.
func asWished(wish guard.Kernel, seen rules.Shield) error {
	bare := func(device string) bool { return !slices.Contains(seen.Devices, device) }
	if !wish.Act || seen.Mode == wish.Shield.Mode && !slices.ContainsFunc(wish.Shield.Devices, bare) {
		return nil
	}
	return errors.New("see shield: it changed as soon as it was put up")
}

// block makes the lists of blocked prefixes what is wished. They come last, and are
// given up for another wish: a million prefixes take seconds, and neither a query nor
// the end waits for them.
func (k *kernel) block(ctx context.Context, wish guard.Kernel) error {
	if !wish.Act || ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.mu.Lock()
	k.giveUp = cancel
	stale := k.culprit != "" || !k.wish.Equal(wish)
	k.mu.Unlock()
	if stale {
		return nil
	}
	before := k.listErr
	changed, err := k.shield.Block(ctx, k.now(), wish.Shield)
	if errors.Is(err, context.Canceled) {
		return nil // the worker was poked, and comes back to it
	}
	if k.listErr = err; changed || err != nil || before != nil {
		k.report(k.look(nil, nil))
	}
	return err
}

func (k *kernel) apply(wish guard.Kernel) (shield, addrs error) {
	if !wish.Act {
		return nil, nil
	}
	if err := k.shield.Grow(k.now(), wish.Shield); err != nil {
		return fmt.Errorf("grow shield: %w", err), nil
	}
	if err := k.addrs.Set(k.now(), wish.Addrs); err != nil {
		return nil, fmt.Errorf("set addresses: %w", err)
	}
	if err := k.shield.Shrink(k.now(), wish.Shield); err != nil {
		return fmt.Errorf("shrink shield: %w", err), nil
	}
	return nil, nil
}

// look reports what is. Errors of the apply before it go with the report.
func (k *kernel) look(shieldErr, addrErr error) guard.KernelSeen {
	shield, e1 := k.shield.Seen(k.now())
	addrs, ready, e2 := k.addrs.Seen(k.now())
	return guard.KernelSeen{Kernel: guard.Kernel{Shield: shield, Addrs: addrs}, Ready: ready,
		Err: cmp.Or(shieldErr, e1), AddrErr: cmp.Or(addrErr, e2), ListErr: k.listErr}
}
