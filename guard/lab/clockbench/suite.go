package clockbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// stagger is what the starts of two worlds are apart: those of programs are busy,
// and nothing else is.
const stagger = 3 * time.Second

// Suite is a whole run. All worlds live side by side.
type Suite struct {
	Binary       string // ntpveil
	Length       time.Duration
	Seeds        int // worlds a profile, with equal polls
	DefaultSeeds int // and with each program's defaults
}

// Tables are what came of a suite: the floor first, then the profiles.
type Tables struct{ Equal, Defaults []Table }

// Run runs it. It takes Length, and stagger for each world. A world that failed
// is in no table and in the error.
func (s Suite) Run(ctx context.Context) (Tables, error) {
	var worlds []World
	for _, p := range append([]Profile{Floor}, Profiles...) {
		worlds = append(worlds, s.worlds(p, Equal, s.Seeds)...)
		worlds = append(worlds, s.worlds(p, Defaults, s.DefaultSeeds)...)
	}
	outcomes, errs := make([]Outcome, len(worlds)), make([]error, len(worlds))
	var running sync.WaitGroup
	for i, w := range worlds {
		running.Add(1)
		go func() {
			defer running.Done()
			outcomes[i], errs[i] = w.after(ctx, time.Duration(i)*stagger)
		}()
	}
	running.Wait()
	var t Tables
	for i, o := range outcomes {
		if errs[i] == nil {
			t.add(o)
		}
	}
	return t, errors.Join(errs...)
}

func (s Suite) worlds(p Profile, polls Polls, seeds int) (all []World) {
	for seed := range uint64(seeds) {
		all = append(all, World{Profile: p, Polls: polls, Seed: seed + 1, Length: s.Length,
			Warm: 5 * time.Minute, Every: 20 * time.Second, Binary: s.Binary})
	}
	return all
}

// add puts an outcome into the last table of its kind, or begins one.
func (t *Tables) add(o Outcome) {
	part := &t.Equal
	if o.Polls == Defaults {
		part = &t.Defaults
	}
	n := len(*part)
	if n == 0 || (*part)[n-1][0].Profile.Name != o.Profile.Name {
		*part, n = append(*part, nil), n+1
	}
	(*part)[n-1] = append((*part)[n-1], o)
}

// after runs a world a little later.
func (w World) after(ctx context.Context, wait time.Duration) (Outcome, error) {
	select {
	case <-time.After(wait):
		return w.run(ctx)
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	}
}

// Print writes all tables, and returns which controls pass that must not.
func (t Tables) Print(w io.Writer) (passing []string) {
	fmt.Fprintln(w)
	for _, p := range append([]Profile{Floor}, Profiles...) {
		fmt.Fprintf(w, "%-16s %s\n", p.Name, p.About)
	}
	for _, part := range [][]Table{t.Equal, t.Defaults} {
		if len(part) == 0 {
			continue
		}
		fmt.Fprintf(w, "\nWith %s, %s, seeds 1 to %d:\n\n", part[0][0].Polls.Name, part[0][0].Length, len(part[0]))
		Columns(w)
		for _, profile := range part {
			profile.Row(w)
		}
	}
	fmt.Fprintln(w, "\nControls and a PLL, equal polls:")
	fmt.Fprintln(w)
	ControlColumns(w)
	for _, profile := range t.profiles() {
		passing = append(passing, profile.Controls(w)...)
	}
	t.verdict(w)
	t.seeds(w)
	return passing
}

// profiles are the tables with equal polls but that of the floor.
func (t Tables) profiles() (out []Table) {
	for _, profile := range t.Equal {
		if profile[0].Profile.Name != Floor.Name {
			out = append(out, profile)
		}
	}
	return out
}

func (t Tables) verdict(w io.Writer) {
	fmt.Fprintln(w)
	better := 0
	for _, profile := range t.profiles() {
		verdict := "met"
		if missed := profile.Missed(); len(missed) > 0 {
			verdict = "MISSED: " + strings.Join(missed, "; ")
		}
		if profile.to("ntpveil", "chronyd").High < 1 {
			better++
		}
		fmt.Fprintf(w, "%-16s %s\n", profile[0].Profile.Name, verdict)
	}
	fmt.Fprintf(w, "better than chronyd, the whole interval below 1, on %d of %d\n", better, len(t.profiles()))
}

// seeds lists every world, so that one can be looked into.
func (t Tables) seeds(w io.Writer) {
	fmt.Fprintln(w)
	for _, part := range [][]Table{t.Equal, t.Defaults} {
		for _, profile := range part {
			for _, o := range profile {
				fmt.Fprintf(w, "%-16s %-24s seed %2d: ntpveil %-8s chronyd %-8s usable after %.1f s and %.1f s, %d and %d exchanges\n",
					o.Profile.Name, o.Polls.Name, o.Seed, short(rmsOf("ntpveil")(o)), short(rmsOf("chronyd")(o)),
					usable("ntpveil")(o), usable("chronyd")(o), len(o.Exchanges["ntpveil"]), len(o.Exchanges["chronyd"]))
			}
		}
	}
}
