package timeworld

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"ntpveil/guard"
)

var (
	seeds = flag.Int("seeds", 100, "how many worlds of each profile to run")
	seed  = flag.Uint64("seed", 0, "the one world to run")
)

// everySeed runs a world of each seed, and says which seeds fail. What they return
// is in the order of the seeds.
func everySeed[T any](t *testing.T, run func(seed uint64) (T, error)) []T {
	t.Helper()
	first, n := uint64(1), *seeds
	if raced || testing.Short() {
		n = min(n, 4)
	}
	if *seed != 0 {
		first, n = *seed, 1
	}
	out, errs := make([]T, n), make([]error, n)
	var wait sync.WaitGroup
	for half := range 2 { // not more at a time: as many tests run beside this one
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := half; i < n; i += 2 {
				out[i], errs[i] = run(first + uint64(i))
			}
		}()
	}
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("%v\nagain: go test ./guard/guardtest/timeworld -run '^%s$' -seed %d", err, t.Name(), first+uint64(i))
		}
	}
	return out
}

// cold is a start as the bench has it: 30 ms off, to either side, and up to 20 ppm.
func cold(seed uint64, p Profile) Setting {
	r := rand.New(rand.NewPCG(seed, 0xc01d))
	s := Setting{Seed: seed, Profile: p, Offset: 0.03, Drift: 40*r.Float64() - 20}
	if r.IntN(2) == 0 {
		s.Offset = -0.03
	}
	return s
}

const (
	day    = 24 * time.Hour
	enough = 50 // seeds: of fewer nothing is said that holds for most
)

// score is the RMS error of one world, by discipline, in s.
type score struct{ ours, like, loop float64 }

// TestSteady: a day on every profile. Nothing oscillates or grows, and the error
// is below that of the reference, at the same polls.
func TestSteady(t *testing.T) {
	for _, p := range Profiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			all := everySeed(t, func(seed uint64) (score, error) {
				s := cold(seed, p)
				w := New(s)
				w.Run(day)
				late := between(w.trace.Looks, 2*time.Hour, day)
				var e score
				e.ours, _ = RMS(late)
				rms := func(d Discipline) float64 {
					x, _ := RMS(between(Replay(s, w.done, d, day), 2*time.Hour, day))
					return x
				}
				e.like, e.loop = rms(NewLike()), rms(&Loop{Gain: 0.3})
				return e, steady(w, late)
			})
			compare(t, p.Name, all)
		})
	}
}

func steady(w *World, late []Look) error {
	fixes := slices.DeleteFunc(slices.Clone(w.trace.Fixes), func(f Correction) bool { return f.At < 2*time.Hour })
	if why := Oscillates(late, fixes); why != "" {
		return fmt.Errorf("seed %d: %s", w.Seed, why)
	}
	if why := Grows(late, good); why != "" {
		return fmt.Errorf("seed %d: %s", w.Seed, why)
	}
	if w.trace.Steps > 0 || !w.Status().Synchronized {
		return fmt.Errorf("seed %d: %d steps, synchronised %t", w.Seed, w.trace.Steps, w.Status().Synchronized)
	}
	return nil
}

func compare(t *testing.T, name string, all []score) {
	t.Helper()
	pick := func(f func(e score) float64) (median, most float64) {
		var x []float64
		for _, e := range all {
			x = append(x, f(e))
		}
		slices.Sort(x)
		return x[len(x)/2], x[len(x)*9/10]
	}
	ours, ours9 := pick(func(e score) float64 { return e.ours })
	like, like9 := pick(func(e score) float64 { return e.like })
	loop, loop9 := pick(func(e score) float64 { return e.loop })
	t.Logf("%-8s RMS over a day, median of the seeds (nine in ten below): ours %s (%s), chrony-like %s (%s), plain loop %s (%s)",
		name, near(ours), near(ours9), near(like), near(like9), near(loop), near(loop9))
	if len(all) >= enough && (ours >= like || ours >= loop) {
		t.Errorf("%s: ours %s, the reference %s, a plain loop %s", name, near(ours), near(like), near(loop))
	}
}

// often keeps the poll interval at its least, so that there are many syncs to swing in.
func often(c *guard.Config) { c.PollMax = c.PollMin }

// TestSteadyWhenAskedOften: the same for six hours of syncs every 64 s.
func TestSteadyWhenAskedOften(t *testing.T) {
	for _, p := range Profiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			everySeed(t, func(seed uint64) (struct{}, error) {
				s := cold(seed, p)
				s.Config = often
				w := New(s)
				w.Run(8 * time.Hour)
				return struct{}{}, steady(w, between(w.trace.Looks, 2*time.Hour, 8*time.Hour))
			})
		})
	}
}

// TestOscillationIsSeen: what is known to swing is called so, and what is known
// to be noise is not.
func TestOscillationIsSeen(t *testing.T) {
	p, _ := profile("WAN")
	s := cold(1, p)
	s.Config = often
	w := New(s)
	w.Run(day)
	for _, d := range []struct {
		name  string
		loop  Discipline
		swing bool
	}{
		{"a loop that takes too much for frequency", &Loop{Gain: 2.1}, true},
		{"a loop that corrects the frequency alone", &frequencyOnly{gain: 0.3}, true},
		{"a plain loop", &Loop{Gain: 0.3}, false},
		{"the reference", NewLike(), false},
	} {
		late := between(Replay(s, w.done, d.loop, day), 2*time.Hour, day)
		if why := Oscillates(late, nil) + Grows(late, good); (why != "") != d.swing {
			t.Errorf("%s: %q", d.name, why)
		}
	}
	flip := []Correction{}
	for i := range 30 {
		flip = append(flip, Correction{Fix: guard.Fix{Slew: time.Duration(1-2*(i%2)) * time.Millisecond}})
	}
	if Oscillates(nil, flip) == "" {
		t.Error("corrections that alternate are not seen")
	}
	growing := []Look{}
	for i := range 900 {
		growing = append(growing, Look{Off: 1e-5 * math.Exp(float64(i)/100)})
	}
	if Grows(growing, good) == "" {
		t.Error("an error that grows is not seen")
	}
}

// frequencyOnly never moves the phase: undamped.
type frequencyOnly struct{ gain, freq, last float64 }

func (l *frequencyOnly) Round(now float64, raw []Reading, ahead float64) Correct {
	if l.last > 0 {
		l.freq += l.gain * (raw[0].Raw - ahead) / (now - l.last)
	}
	l.last = now
	return Correct{Over: 1, Freq: l.freq}
}

// TestConverges: after a cold start over a WAN, 30 ms and 20 ppm off, the clock is
// within 1 ms for good, sooner than by the reference that has the same answers.
func TestConverges(t *testing.T) {
	p, _ := profile("WAN")
	type times struct{ ours, like, burst time.Duration }
	all := everySeed(t, func(seed uint64) (times, error) {
		s := Setting{Seed: seed, Profile: p, Offset: 0.03, Drift: 20}
		w := New(s)
		w.Run(time.Hour)
		var x times
		x.ours, _ = StaysBelow(w.trace.Looks, good)
		x.like, _ = StaysBelow(Replay(s, w.done, NewLike(), time.Hour), good)
		x.burst, _ = StaysBelow(Replay(s, Burst(s, time.Hour), NewLike(), time.Hour), good)
		return x, nil
	})
	sooner := 0
	var ours, like, burst []time.Duration
	for _, x := range all {
		if x.ours < x.like {
			sooner++
		}
		ours, like, burst = append(ours, x.ours), append(like, x.like), append(burst, x.burst)
	}
	o, l, b := quartiles(ours), quartiles(like), quartiles(burst)
	t.Logf("within 1 ms for good after (quarter, half, three quarters, nine tenths of the seeds): ours %v, chrony-like %v, "+
		"chrony-like that asks by itself (iburst) %v; ours sooner at the same polls in %d of %d", o, l, b, sooner, len(all))
	if len(all) < enough {
		return
	}
	if o[1] >= l[1] || o[3] >= l[3] || o[1] >= b[1] || o[3] >= b[3] || sooner*5 < len(all)*4 {
		t.Error("the reference is as soon")
	}
}

func quartiles(x []time.Duration) [4]time.Duration {
	slices.Sort(x)
	var out [4]time.Duration
	for i, part := range []int{25, 50, 75, 90} {
		out[i] = x[len(x)*part/100].Round(time.Second)
	}
	return out
}
