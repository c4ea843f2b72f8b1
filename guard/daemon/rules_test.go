package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// preset is the one that the kernel was asked for last.
func (f *fake) preset() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shield.Preset
}

func (f *fake) failing(stage string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[stage] = err
}

// TestApplyWaitsForTheKernel: done means in force and on disk.
func TestApplyWaitsForTheKernel(t *testing.T) {
	f, d := workstation(t)
	from := guard.Session{ID: "login 1"}
	if err := d.OrderRules(t.Context(), "apply", "server", time.Hour, from); err != nil || f.preset() != "server" {
		t.Fatalf("preset %s, error %v", f.preset(), err)
	}
	f.mu.Lock()
	kept := false
	for _, r := range f.records {
		kept = kept || r.Rules != nil && r.Rules.Now.Name == "server" && r.Rules.Before.Name == "workstation"
	}
	f.mu.Unlock()
	if !kept {
		t.Error("nothing is on disk")
	}
	if err := d.OrderRules(t.Context(), "confirm", "", 0, from); err == nil || !strings.Contains(err.Error(), "log in anew") {
		t.Errorf("confirm from the same session: %v", err)
	}
	if err := d.OrderRules(t.Context(), "confirm", "", 0, guard.Session{ID: "login 2", Began: now().Boot}); err != nil {
		t.Errorf("confirm: %v", err)
	}
	if err := d.OrderRules(t.Context(), "revert", "", 0, from); err != nil || f.preset() != "workstation" {
		t.Errorf("revert: preset %s, error %v", f.preset(), err)
	}
	if err := d.OrderRules(t.Context(), "apply", "none", time.Hour, from); err == nil || err.Error() != "no such preset" {
		t.Errorf("apply: %v", err)
	}
}

// TestApplyThatTheKernelRefuses is told why, and what was before is wished again.
func TestApplyThatTheKernelRefuses(t *testing.T) {
	f, d := workstation(t)
	f.failing("grow", errors.New("the set is full"))
	err := d.OrderRules(t.Context(), "apply", "server", time.Hour, guard.Session{ID: "login 1"})
	if err == nil || !strings.Contains(err.Error(), "the set is full") {
		t.Errorf("apply: %v", err)
	}
	s, _, _ := d.Status(t.Context())
	if s.Shield.Preset != "workstation" || s.Shield.ConfirmBy != nil {
		t.Errorf("status %+v", s.Shield)
	}
}

// TestDiff compares what is seen with what would be wished, and changes nothing.
func TestDiff(t *testing.T) {
	f, d := workstation(t)
	before, after, err := d.Diff(t.Context(), "workstation")
	if err != nil || before != after || !strings.Contains(before, "preset workstation") {
		t.Errorf("error %v, before\n%safter\n%s", err, before, after)
	}
	if _, after, err = d.Diff(t.Context(), "lockdown"); err != nil || !strings.Contains(after, "preset lockdown") || f.preset() != "workstation" {
		t.Errorf("error %v, preset %s, after\n%s", err, f.preset(), after)
	}
	if _, _, err = d.Diff(t.Context(), "none"); err == nil {
		t.Error("no error for a preset that there is not")
	}
}

// workstation is a daemon that runs with that preset.
func workstation(t *testing.T) (*fake, *Daemon) {
	t.Helper()
	f := newFake()
	f.conf, _ = f.choose("workstation")
	d, _ := run(t, f)
	await(t, f, "READY=1")
	return f, d
}

// shielded reloads with these changes of [shield], and is what the kernel is asked for then.
func (f *fake) shielded(t *testing.T, d *Daemon, change func(*guard.Config)) rules.Shield {
	t.Helper()
	f.mu.Lock()
	change(&f.conf)
	f.mu.Unlock()
	if err := d.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, _, _ := d.Status(t.Context())
	for range 200 { // the kernel's worker comes after the reload
		f.mu.Lock()
		now := f.shield
		f.mu.Unlock()
		if now.Preset == s.Shield.Preset && now.Mode == f.conf.Shield && slices.Equal(now.Allow, f.conf.Allow) {
			return now
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shield
}

// TestReloadUnderAnAppliedPreset: what [shield] says wins over a preset that was
// applied as it does over a configured one, and what it says no more is the preset's.
func TestReloadUnderAnAppliedPreset(t *testing.T) {
	f, d := workstation(t)
	from := guard.Session{ID: "login 1"}
	if err := d.OrderRules(t.Context(), "apply", "lockdown", 0, from); err != nil {
		t.Fatal(err)
	}
	all, _ := rules.ReadPresets(nil)
	own, mine := all["lockdown"].Allow, []rules.Service{{Proto: "tcp", Port: 8443}}
	said := f.shielded(t, d, func(c *guard.Config) {
		c.Written.Allow, c.Allow = true, mine
		c.Written.Mode, c.Shield = true, rules.Observe
	})
	if said.Preset != "lockdown" || said.Mode != rules.Observe || !slices.Equal(said.Allow, mine) {
		t.Errorf("preset %s, mode %s, allow %v", said.Preset, said.Mode, said.Allow)
	}
	if line := "preset lockdown, which was applied, holds"; !f.noted(line) {
		t.Errorf("no line says %q", line)
	}
	if said = f.shielded(t, d, func(c *guard.Config) {
		c.Written, c.Shield, c.Allow = guard.Written{}, rules.Enforce, own
	}); said.Mode != rules.Enforce || !slices.Equal(said.Allow, own) || said.Preset != "lockdown" {
		t.Errorf("without the keys: preset %s, mode %s, allow %v", said.Preset, said.Mode, said.Allow)
	}
}

// TestApplyDoesNotWaitForLists: they may not be what the configuration says for as
// long as a file on disk is another one.
func TestApplyDoesNotWaitForLists(t *testing.T) {
	f := newFake()
	f.conf, _ = f.choose("workstation")
	f.conf.Lists = []rules.List{{Name: "/changed", Digest: [32]byte{1}}}
	f.failing("block", errors.New("load list /changed: it changed since it was read"))
	d, stop := run(t, f)
	await(t, f, "READY=1")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := d.OrderRules(ctx, "apply", "lockdown", time.Hour, guard.Session{ID: "login 1"}); err != nil || f.preset() != "lockdown" {
		t.Errorf("preset %s, error %v", f.preset(), err)
	}
	if !f.noted("it changed since it was read") {
		t.Error("nothing is said of the list")
	}
	_ = stop()
}

// noted reports whether a line was written that has this in it.
func (f *fake) noted(text string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.notes, func(n string) bool { return strings.Contains(n, text) })
}
