package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
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
	f := newFake()
	c, _ := f.choose("workstation")
	f.conf = c
	d, stop := run(t, f)
	await(t, f, "READY=1")
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
	_ = stop()
}

// TestApplyThatTheKernelRefuses is told why, and what was before is wished again.
func TestApplyThatTheKernelRefuses(t *testing.T) {
	f := newFake()
	c, _ := f.choose("workstation")
	f.conf = c
	d, stop := run(t, f)
	await(t, f, "READY=1")
	f.failing("grow", errors.New("the set is full"))
	err := d.OrderRules(t.Context(), "apply", "server", time.Hour, guard.Session{ID: "login 1"})
	if err == nil || !strings.Contains(err.Error(), "the set is full") {
		t.Errorf("apply: %v", err)
	}
	s, _, _ := d.Status(t.Context())
	if s.Shield.Preset != "workstation" || s.Shield.ConfirmBy != nil {
		t.Errorf("status %+v", s.Shield)
	}
	_ = stop()
}

// TestDiff compares what is seen with what would be wished, and changes nothing.
func TestDiff(t *testing.T) {
	f := newFake()
	c, _ := f.choose("workstation")
	f.conf = c
	d, stop := run(t, f)
	await(t, f, "READY=1")
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
	_ = stop()
}
