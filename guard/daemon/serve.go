package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// lookWithin bounds a look: a status a little old is better than none.
const lookWithin = 2 * time.Second

// errStopped is what callers get once the loop has ended.
var errStopped = errors.New("the daemon is stopping")

// do runs work in the loop's goroutine and waits for it.
func (d *Daemon) do(ctx context.Context, work func()) error {
	done := make(chan struct{})
	select {
	case d.asks <- func() { work(); close(done) }:
	case <-d.stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// Look has the kernel looked at, so that the next status counts what was dropped
// until now.
func (d *Daemon) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	if err := d.kernel.refresh(ctx); err != nil {
		return err
	}
	return d.do(ctx, d.catchUp)
}

// catchUp steps what was reported so far.
func (d *Daemon) catchUp() {
	for {
		select {
		case ev := <-d.events:
			d.step(ev)
		default:
			return
		}
	}
}

// Status is the status now, and a channel that is closed when it may have changed.
func (d *Daemon) Status(ctx context.Context) (s guard.Status, changed <-chan struct{}, err error) {
	err = d.do(ctx, func() {
		s, changed = d.guard.Status(d.parts.Now()), d.changed
		s.Version = d.parts.Version
	})
	return s, changed, err
}

// Order carries an order out and waits for its end: sync, step, disarm, arm.
func (d *Daemon) Order(ctx context.Context, verb string, forTime time.Duration) error {
	return d.order(ctx, guard.Ordered{Verb: verb, For: forTime})
}

// OrderRules carries out apply, confirm or revert, and waits for its end. The
// preset that is applied is read anew.
func (d *Daemon) OrderRules(ctx context.Context, verb, preset string, forTime time.Duration, from guard.Session) error {
	o := guard.Ordered{Verb: verb, For: forTime, Session: from}
	if verb == "apply" {
		c, err := d.parts.Choose(preset)
		if err != nil {
			return err
		}
		o.Preset, o.Plain, o.Lists = c.Chosen(), c.Plain, c.Lists
	}
	return d.order(ctx, o)
}

// Diff is what is in force and what would be with a preset, as nft text without
// what runs out.
func (d *Daemon) Diff(ctx context.Context, preset string) (before, after string, err error) {
	c, err := d.parts.Choose(preset)
	if err != nil {
		return "", "", err
	}
	if err := d.Look(ctx); err != nil {
		return "", "", fmt.Errorf("look at the shield: %w", err)
	}
	var now, then rules.Shield
	if e := d.do(ctx, func() { now, then, err = d.guard.Rules(c.Chosen()) }); e != nil || err != nil {
		return "", "", cmp.Or(e, err)
	}
	old, err := rules.Compile(now)
	if err != nil {
		return "", "", err
	}
	fresh, err := rules.Compile(then)
	return old.String(), fresh.String(), err
}

// order steps an order and waits for its end.
func (d *Daemon) order(ctx context.Context, o guard.Ordered) error {
	reply := make(chan string, 1)
	err := d.do(ctx, func() {
		o.Key = d.orderKey()
		d.waiting[o.Key] = reply
		d.step(o)
	})
	if err != nil {
		return err
	}
	select {
	case why := <-reply:
		if why != "" {
			return errors.New(why)
		}
		return nil
	case <-d.stopped:
		return errStopped
	case <-ctx.Done():
		_ = d.do(context.WithoutCancel(ctx), func() {
			delete(d.waiting, o.Key)
			d.step(guard.Ordered{Key: o.Key, Verb: "leave"})
		})
		return ctx.Err()
	}
}

// Reload reads the configuration anew: all of it or none.
func (d *Daemon) Reload(ctx context.Context) error {
	d.parts.Journal.Notify("RELOADING=1")
	defer d.parts.Journal.Notify("READY=1")
	c, err := d.parts.Load()
	if err == nil {
		err = fixed(c, *d.conf.Load())
	}
	if err != nil {
		return fmt.Errorf("reload configuration: nothing changed: %w", err)
	}
	return d.do(ctx, func() {
		d.conf.Store(&c)
		d.step(guard.Configured{Config: c})
		go d.readHost() // the configured interface may be another one
	})
}

// fixed refuses what cannot change while we run, by its keys.
func fixed(c, now guard.Config) error {
	var keys []string
	for key, changed := range map[string]bool{"ledger.path": c.Ledger != now.Ledger, "control.socket": c.Socket != now.Socket, "clock.mode": c.Observe != now.Observe} {
		if changed {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.Sort(keys)
	return fmt.Errorf("a change of %s takes a restart", strings.Join(keys, " and "))
}

func (d *Daemon) orderKey() guard.Key {
	d.orders++
	return d.orders
}

func (d *Daemon) answer(r guard.Reply) {
	if c := d.waiting[r.Key]; c != nil {
		c <- r.Err
		delete(d.waiting, r.Key)
	}
}
