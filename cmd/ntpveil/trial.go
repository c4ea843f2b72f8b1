package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
)

// trialsDir is gone after a reboot, as what was applied is.
const trialsDir = "/run/ntpveil-rules"

const lockPause = 20 * time.Millisecond

// trial is a preset that `rules apply` put in force, and the table that was there
// before.
type trial struct {
	ID      string        `json:"id"`
	BootID  string        `json:"boot_id"`
	Preset  string        `json:"preset"`
	Daemon  bool          `json:"daemon"`  // a daemon put it in force and rolls it back, as long as it lives
	At      time.Duration `json:"at"`      // CLOCK_BOOTTIME
	Until   time.Duration `json:"until"`   // CLOCK_MONOTONIC: rolled back then; 0: it is confirmed
	Session string        `json:"session"` // from where
	Before  nft.Copy      `json:"before"`
}

// trials is the directory of the one trial that there can be.
type trials struct{ dir string }

func (t trials) file() string { return filepath.Join(t.dir, "trial.json") }

// lock keeps others out until unlock is called, which may be called twice.
func (t trials) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock %s: %w", t.dir, err)
	}
	d, err := os.Open(t.dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", t.dir, err)
	}
	for err = unix.EWOULDBLOCK; errors.Is(err, unix.EWOULDBLOCK) && ctx.Err() == nil; {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) { // nobody tells when it is free, and a signal must end this
			_ = sleep(ctx, sysclock.Mono()+lockPause)
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another command holds it")
	}
	if err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("lock %s: %w", t.dir, err)
	}
	return func() { _ = d.Close() }, nil
}

// load is the trial of this boot; nil: there is none.
func (t trials) load() (*trial, error) {
	text, err := os.ReadFile(t.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var x trial
	if err == nil {
		err = json.Unmarshal(text, &x)
	}
	if err != nil {
		return nil, fmt.Errorf("read what was applied: %s: %w; without the file nothing is known of it, and nothing is rolled back", t.file(), err)
	}
	if x.BootID != bootID() {
		return nil, nil
	}
	return &x, nil
}

// keep stores a trial, whole or not at all.
func (t trials) keep(x *trial) error {
	text, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("keep what is applied: %w", err)
	}
	draft := t.file() + ".new"
	if err := os.WriteFile(draft, text, 0o600); err != nil {
		return fmt.Errorf("keep what is applied: %w", err)
	}
	if err := os.Rename(draft, t.file()); err != nil {
		return fmt.Errorf("keep what is applied: %w", err)
	}
	return nil
}

// end forgets the trial: its watcher ends without doing anything.
func (t trials) end() error {
	if err := os.Remove(t.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what was applied: %w", err)
	}
	return nil
}

func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}
