package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ntpveil/guard"
	"ntpveil/guard/config"
	"ntpveil/guard/control"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

const (
	confirmIn    = 60 * time.Second // where --confirm is not written
	leastConfirm = time.Second
	lockMost     = control.OrderMost + 2*answerIn // another command may well give an order
)

// change is one command that changes the kernel's rules: with a daemon by an order
// to it, and without one by itself.
type change struct {
	o       *options
	ctx     context.Context
	stderr  io.Writer
	trials  trials
	session guard.Session
	alone   bool // no daemon runs
}

// begin finds out who keeps the rules, and keeps others out until unlock is called.
func (o *options) begin(cmd *cobra.Command, what string) (c *change, unlock func(), err error) {
	if os.Geteuid() != 0 {
		return nil, nil, fmt.Errorf("%s: %w: only root may", what, control.ErrNotPermitted)
	}
	c = &change{o: o, ctx: cmd.Context(), stderr: cmd.ErrOrStderr(), trials: trials{o.trials}, session: sessionOf(os.DirFS("/proc"), os.Getpid())}
	waiting, cancel := context.WithTimeout(c.ctx, lockMost)
	defer cancel()
	if unlock, err = c.trials.lock(waiting); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	if c.alone, err = o.alone(c.ctx, what); err != nil {
		unlock()
		return nil, nil, err
	}
	return c, unlock, nil
}

// alone reports whether no daemon runs in this network: none that answers, nor one with
// another socket, or on its way out.
func (o *options) alone(ctx context.Context, what string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	_, err := o.call(ctx, what, control.Request{Verb: "status"})
	if !errors.Is(err, control.ErrNotRunning) {
		return false, err
	}
	if other := nobodyElse(); other != nil {
		return false, fmt.Errorf("%s: %w, but not on the control.socket of %s", what, other, o.config)
	}
	return true, nil
}

// nobodyElse reports a daemon of this network, wherever its socket is.
func nobodyElse() error {
	claim, err := control.Alone()
	if err != nil {
		return err
	}
	return claim.Close()
}

// say prints a text, or a value as JSON.
func (o *options) say(w io.Writer, text string, value any) error {
	if o.json {
		return printJSON(w, value)
	}
	_, err := io.WriteString(w, text)
	return err
}

// order has the daemon do it.
func (c *change) order(what string, r control.Request) error {
	ctx, cancel := c.ordering()
	defer cancel()
	r.Session = c.session
	_, err := c.o.call(ctx, what, r)
	return err
}

// ordering is how long an order may take, its answer included.
func (c *change) ordering() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, control.OrderMost+answerIn)
}

// kernel runs f with the table.
func (c *change) kernel(what string, f func(*nft.Shield) error) error {
	table, err := nft.Open(0)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer table.Close()
	if err := f(table); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func rulesApplyCmd(o *options) *cobra.Command {
	var confirm time.Duration
	cmd := &cobra.Command{
		Use: "apply PRESET", Short: "Put a preset in force, and take it back unless it is confirmed in time",
		Long: "The preset holds until the host reboots. Unless `ntpveil rules confirm` comes in time, from a\n" +
			"session that began after it, what was in force before comes back by itself: the daemon does it,\n" +
			"and where none runs a process in the background. What would cut the session that it is typed\n" +
			"in is refused. --confirm 0 asks for no confirmation.",
		Example:           "  ntpveil rules apply server\n  ntpveil rules apply lockdown --confirm 5m",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.presetNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm != 0 && (confirm < leastConfirm || confirm > guard.MaxConfirm) {
				return usageError{fmt.Errorf("apply preset %s: --confirm takes 0, or a time from %s to %s", args[0], leastConfirm, guard.MaxConfirm)}
			}
			p, err := o.preset(args[0])
			if err != nil {
				return err
			}
			what := "apply preset " + p.Name
			c, unlock, err := o.begin(cmd, what)
			if err != nil {
				return err
			}
			defer unlock()
			if err := c.apply(what, p, confirm); err != nil {
				return err
			}
			unlock() // nobody waits until this is read
			text := fmt.Sprintf("preset %s is in force until the host reboots\n", p.Name)
			if confirm > 0 {
				text = fmt.Sprintf("preset %s is in force; it is rolled back in %s unless `ntpveil rules confirm` comes from a new login\n", p.Name, confirm)
			}
			return o.say(cmd.OutOrStdout(), text, struct {
				Preset  string  `json:"preset"`
				Confirm float64 `json:"confirm_s"` // 0: no confirmation is needed
			}{p.Name, confirm.Seconds()})
		},
	}
	cmd.Flags().DurationVar(&confirm, "confirm", confirmIn, "roll back unless confirmed within this `time`; 0: no confirmation is needed")
	return cmd
}

// apply puts a preset in force. Where it is to be confirmed, somebody watches
// before anything changes.
func (c *change) apply(what string, p rules.Preset, confirm time.Duration) error {
	old, err := c.trials.load()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if c.alone && old != nil && old.Until != 0 {
		return fmt.Errorf("%s: preset %s waits to be confirmed: `ntpveil rules confirm` or `ntpveil rules revert` comes first", what, old.Preset)
	}
	var shield rules.Shield
	if c.alone {
		if shield, err = c.o.onThisHost(p, c.stderr); err != nil {
			return err
		}
		if why := c.session.WhyCut(p.Name, shield); why != "" {
			return fmt.Errorf("%s: %s", what, why)
		}
	}
	return c.kernel(what, func(table *nft.Shield) error {
		before, err := table.Copy(sysclock.Mono())
		if err != nil {
			return err
		}
		now := sysclock.Now()
		t := &trial{ID: rand.Text(), BootID: bootID(), Preset: p.Name, Daemon: !c.alone, At: now.Boot, Session: c.session.ID, Before: before}
		if confirm > 0 {
			t.Until = now.Mono + confirm
		}
		err = c.try(t, table, shield, confirm)
		var unsure unsureError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &unsure):
			return c.failed(err, old)
		case confirm > 0:
			return fmt.Errorf("%w; it may be in force, and is rolled back in %s: `ntpveil status` tells", err, confirm)
		}
		return fmt.Errorf("%w; it may be in force: `ntpveil status` tells, and `ntpveil rules revert` takes it back", err)
	})
}

// unsureError is an apply after which nobody knows what is in force.
type unsureError struct{ error }

func (e unsureError) Unwrap() error { return e.error }

// failed puts back what was remembered before.
func (c *change) failed(err error, old *trial) error {
	if old == nil {
		return errors.Join(err, c.trials.end())
	}
	return errors.Join(err, c.trials.keep(old))
}

func (c *change) try(t *trial, table *nft.Shield, shield rules.Shield, confirm time.Duration) error {
	if err := c.trials.keep(t); err != nil {
		return err
	}
	if confirm > 0 {
		if err := c.o.watch(t.ID); err != nil {
			return err
		}
	}
	if !c.alone {
		err := c.orderApply(t, confirm)
		if err == nil && confirm == 0 {
			err = c.trials.end() // the daemon knows what a revert brings back
		}
		return err
	}
	now := sysclock.Mono()
	err := table.Grow(now, shield)
	if err == nil {
		err = table.Shrink(now, shield)
	}
	if err == nil {
		return nil
	}
	if worse := table.Put(sysclock.Mono(), t.Before); worse != nil {
		return unsureError{errors.Join(err, worse)}
	}
	return err
}

// orderApply orders it; the daemon's own words say why not.
func (c *change) orderApply(t *trial, confirm time.Duration) error {
	socket, err := config.Socket(c.o.config, c.o.given)
	if err != nil {
		return err
	}
	ctx, cancel := c.ordering()
	defer cancel()
	_, err = control.Call(ctx, socket, control.Request{Verb: "apply", Preset: t.Preset, For: confirm.String(), Session: c.session})
	var refused control.Refused
	if err == nil || errors.As(err, &refused) || errors.Is(err, control.ErrNotRunning) || errors.Is(err, control.ErrNotPermitted) {
		return err
	}
	return unsureError{err}
}
