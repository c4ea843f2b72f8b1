package main

import (
	"context"
	"errors"
	"fmt"
	"log/syslog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ntpveil/guard/config"
	"ntpveil/guard/control"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
)

const (
	readyFD       = 3               // where the watcher says that it watches
	lookEvery     = 5 * time.Second // whether the trial is over
	readyIn       = 30 * time.Second
	answerIn      = 5 * time.Second // for a daemon
	lookMost      = 30 * time.Second
	rollBackPause = time.Second
	patience      = 5 * time.Second // with whoever holds the lock
	rollBackTries = 120
)

// watch starts the process that rolls a trial back in time, and returns when it
// watches. It is of a session of its own: neither the end of the command nor that
// of the login, nor a signal from its terminal, reaches it.
func (o *options) watch(id string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start watcher: %w", err)
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start watcher: %w", err)
	}
	defer ready.Close()
	trials, err := filepath.Abs(o.trials) // for it works elsewhere
	if err != nil {
		return fmt.Errorf("start watcher: %w", err)
	}
	args := []string{"rules", "watch", "--trials", trials, id}
	if o.given { // else the file need not be there
		file, err := filepath.Abs(o.config)
		if err != nil {
			return fmt.Errorf("start watcher: %w", err)
		}
		args = append(args, "--config", file)
	}
	cmd := exec.CommandContext(context.Background(), self, args...) // it outlives the command
	cmd.Dir, cmd.ExtraFiles = "/", []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("start watcher: %w", err)
	}
	defer func() { _ = cmd.Process.Release() }()
	_ = ready.SetReadDeadline(time.Now().Add(readyIn))
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		_ = cmd.Process.Kill()
		return fmt.Errorf("start watcher: it does not watch: %w", err)
	}
	return nil
}

func rulesWatchCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Roll back what `rules apply` put in force (started by it)", Hidden: true,
		Example: "  ntpveil rules watch ID     is started by ntpveil rules apply",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t := trials{o.trials}
			x, err := t.load()
			if err != nil {
				return err
			}
			if x == nil || x.ID != args[0] {
				return errors.New("watch what was applied: there is nothing to watch")
			}
			if ready := os.NewFile(readyFD, "ready"); ready != nil {
				_, _ = ready.WriteString("1")
				_ = ready.Close()
			}
			signal.Ignore(unix.SIGHUP) // the end of a login is not the end of the time
			waits, err := t.outlast(cmd.Context(), x)
			// A service that ends takes the watcher with it, which is its last moment.
			if !waits && cmd.Context().Err() == nil {
				return err
			}
			return o.rollBack(context.WithoutCancel(cmd.Context()), t, x.ID)
		},
	}
}

// outlast waits until a trial's time is up, and reports whether it waits to be
// confirmed even then. It ends early once it does not.
func (t trials) outlast(ctx context.Context, x *trial) (bool, error) {
	for {
		now, err := t.load()
		switch {
		case err != nil && x.Until > sysclock.Mono(): // it may be read the next time
		case err != nil:
			return true, nil
		case now == nil || now.ID != x.ID || now.Until == 0:
			return false, nil
		case x.Until <= sysclock.Mono():
			return true, nil
		}
		if err := sleep(ctx, min(x.Until, sysclock.Mono()+lookEvery)); err != nil {
			return false, err
		}
	}
}

// sleep waits for a reading of CLOCK_MONOTONIC.
func sleep(ctx context.Context, until time.Duration) error {
	timer := time.NewTimer(until - sysclock.Mono())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rollBack puts back what was there, unless it was confirmed or reverted meanwhile,
// or a daemon does it, or one came later, which has put up its own. A daemon that is
// about to end does not, and one that answers nobody is none: it is asked until it
// has done so or is gone.
func (o *options) rollBack(ctx context.Context, t trials, id string) error {
	begun := sysclock.Mono()
	for range rollBackTries {
		done, err := o.tryRollBack(ctx, t, id, sysclock.Mono()-begun > patience)
		if done || err != nil {
			return err
		}
		if err := sleep(ctx, sysclock.Mono()+rollBackPause); err != nil {
			return err
		}
	}
	return errors.New("roll back: neither the daemon does it nor can it be done here")
}

// tryRollBack waits for the lock until it is impatient: a command may be stopped, and its
// terminal out of reach.
func (o *options) tryRollBack(ctx context.Context, t trials, id string, impatient bool) (done bool, err error) {
	locking, cancel := context.WithTimeout(ctx, rollBackPause)
	defer cancel()
	unlock, err := t.lock(locking)
	switch {
	case err == nil:
		defer unlock()
	case !impatient:
		return false, nil
	}
	x, err := t.load()
	if err != nil {
		return false, nil
	}
	if x == nil || x.ID != id || x.Until == 0 {
		return true, nil
	}
	// The file may have been moved by now: the admin waits all the same.
	socket, err := config.Socket(o.config, false)
	if err != nil {
		return false, err
	}
	asking, stop := context.WithTimeout(ctx, answerIn)
	defer stop()
	status, err := control.Call(asking, socket, control.Request{Verb: "status"})
	switch {
	case err == nil && status != nil && status.Shield.ConfirmBy == nil:
		return true, t.end()
	case err == nil, !errors.Is(err, control.ErrNotRunning) && !errors.Is(err, context.DeadlineExceeded):
		return false, nil
	case errors.Is(err, control.ErrNotRunning) && nobodyElse() != nil: // it ends, and works to its end
		return false, nil
	}
	if err := putBack(x.Before); err != nil {
		announce(fmt.Sprintf("preset %s was not confirmed in time, and what was before is not back yet: %v", x.Preset, err))
		return false, nil
	}
	announce(fmt.Sprintf("preset %s was not confirmed in time: what was before is back", x.Preset))
	return true, t.end()
}

func putBack(before nft.Copy) error {
	table, err := nft.Open(0)
	if err != nil {
		return err
	}
	return errors.Join(table.Put(sysclock.Mono(), before), table.Close())
}

// announce writes a line to the system's log, where there is one.
func announce(text string) {
	log, err := syslog.New(syslog.LOG_NOTICE|syslog.LOG_DAEMON, "ntpveil")
	if err != nil {
		return
	}
	_ = log.Notice(text)
	_ = log.Close()
}
