package guardtest

import (
	"net/netip"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// presets are those that are built in.
var presets, _ = rules.ReadPresets(nil)

// sessions are where an admin may sit: where everything is applied from, one that
// began before, one that begins now, and by ssh.
func (w *World) session(name string) guard.Session {
	return map[string]guard.Session{
		"": {ID: "1"}, "old": {ID: "2"}, "new": {ID: "3", Began: w.now.Boot},
		"ssh": {ID: "1", From: netip.MustParseAddr("198.51.100.7"), Port: 2222},
	}[name]
}

// orderRules applies, confirms and reverts: apply PRESET TIME [SESSION], confirm
// or revert [SESSION].
func (w *World) orderRules(words []string) error {
	o := guard.Ordered{Verb: words[0]}
	args := append(words[1:], "", "", "")
	if o.Verb == "apply" {
		var err error
		if o.For, err = time.ParseDuration(args[1]); err != nil {
			return err
		}
		o.Plain, args = presets[args[0]], args[2:]
		o.Preset = w.conf.Over(o.Plain)
	}
	o.Session = w.session(args[0])
	w.place(o)
	return nil
}

// applying is an admin who tries a preset out, and confirms it or does not.
func (w *World) applying() {
	names := []string{"server", "router", "lockdown"}
	name := names[w.rng.IntN(len(names))]
	w.logf("mischief: preset %s is applied", name)
	w.judge.applied = w.now.Mono
	w.place(guard.Ordered{Verb: "apply", For: time.Minute, Preset: presets[name], Plain: presets[name], Session: w.session("")})
	switch w.rng.IntN(3) {
	case 0:
		w.in(w.soon(50*time.Second), w.life, func() { w.place(guard.Ordered{Verb: "confirm", Session: w.session("new")}) })
	case 1:
		w.in(w.soon(2*time.Minute), w.life, func() { w.place(guard.Ordered{Verb: "revert", Session: w.session("")}) })
	}
}

// judgeApplied: what was not confirmed in time does not hold.
func (w *World) judgeApplied() {
	if w.judge.applied == 0 || w.now.Mono > w.judge.applied+10*time.Minute { // a status takes longer than most steps
		return
	}
	if by := w.guard.Status(w.now).Shield.ConfirmBy; by != nil && by.Before(w.now.Wall) {
		w.judge.fail("a preset that was not confirmed in time holds")
	}
}
