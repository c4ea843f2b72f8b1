package timeworld

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ntpveil/guard"
)

// liar makes up a lie of a kind and a size at random.
func liar(r *rand.Rand) *lie {
	size := math.Exp(r.Float64()*math.Log(1e6)) * 1e-3 // 1 ms to 1000 s
	if r.IntN(2) == 0 {
		size = -size
	}
	l := &lie{rng: rand.New(rand.NewPCG(r.Uint64(), 1)), from: time.Duration(r.Int64N(int64(time.Hour)))}
	switch r.IntN(4) {
	case 0:
		l.constant = size
	case 1:
		l.drag = math.Copysign(math.Min(math.Abs(size), 1)*1e-3, size) // 1 µs to 1 ms in a second
	case 2:
		l.walk = math.Abs(size) * 1e-2
	default: // from the start
		l.constant, l.from = size, 0
	}
	return l
}

// corrupt makes some of the servers lie, together or each for itself, and claim no
// distance or not.
func corrupt(r *rand.Rand, servers []*server, n int) {
	common, together := liar(r), r.IntN(2) == 0
	for _, i := range r.Perm(len(servers))[:n] {
		servers[i].lie, servers[i].tiny = common, r.IntN(2) == 0
		if !together {
			servers[i].lie = liar(r)
		}
	}
}

// farthest is what the vote lets the clock be off by, whatever a minority says:
// the far end of the interval of one that tells the truth, which holds the truth.
func farthest(w *World) float64 {
	most := time.Millisecond // the least width that counts, twice
	for _, s := range w.servers {
		if s.lie == nil {
			most = max(most, 2*s.last.RootDistance())
		}
	}
	return most.Seconds()
}

// TestMinorityMovesNothing: on every profile one of four lies, or two of five,
// whatever it says and claims. Every correction leads to where the root distance
// of the honest lets the truth be, and nothing else is ever stepped to.
func TestMinorityMovesNothing(t *testing.T) {
	for _, p := range Profiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			type score struct{ with, without float64 }
			all := everySeed(t, func(seed uint64) (score, error) {
				r := rand.New(rand.NewPCG(seed, 0xfa15e))
				s := cold(seed, p)
				liars := 1 + r.IntN(2)
				s.Servers = 3 + liars
				honest := New(s)
				honest.Run(3 * time.Hour)
				s.Mischief = func(w *World) { corrupt(r, w.servers, liars) }
				w := New(s)
				var bad error
				w.onFix = func(f guard.Fix) {
					if after := w.clock.behind - f.Step.Seconds() - f.Slew.Seconds(); bad == nil && math.Abs(after) > farthest(w)+w.clock.rest() {
						bad = fmt.Errorf("seed %d: after %s a correction leaves the clock %s off, the honest allow %s", seed, w.clock.at, near(after), near(farthest(w)))
					}
				}
				w.Run(3 * time.Hour)
				var e score
				e.with, _ = RMS(between(w.trace.Looks, time.Hour, 3*time.Hour))
				e.without, _ = RMS(between(honest.trace.Looks, time.Hour, 3*time.Hour))
				if bad == nil && w.trace.Steps > 0 {
					bad = fmt.Errorf("seed %d: %d steps", seed, w.trace.Steps)
				}
				return e, bad
			})
			var worse []float64
			for _, e := range all {
				worse = append(worse, e.with/e.without)
			}
			slices.Sort(worse)
			t.Logf("%-8s the error with liars is that without them times %.2f in the median, %.2f in nine of ten, %.2f at most",
				p.Name, worse[len(worse)/2], worse[len(worse)*9/10], worse[len(worse)-1])
		})
	}
}

// TestMajorityMeetsTheLimits: most or all servers lie. They move the clock, but
// never further than clock.max_change and what any crystal may need.
func TestMajorityMeetsTheLimits(t *testing.T) {
	const forward, backward, honest = 5 * time.Second, 3 * time.Second, 100e-6
	for _, p := range Profiles {
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			refused, n := 0, 0
			for _, hit := range everySeed(t, func(seed uint64) (bool, error) {
				r := rand.New(rand.NewPCG(seed, 0x3a1))
				s := cold(seed, p)
				s.Config = func(c *guard.Config) {
					c.MaxForward, c.MaxBackward = forward, backward
					c.StepWhen = []string{"start", "always", "never"}[r.IntN(3)]
				}
				s.Mischief = func(w *World) { corrupt(r, w.servers, 3+r.IntN(2)) }
				w := New(s)
				var up, down time.Duration
				w.onFix = func(f guard.Fix) { up, down = up+max(f.Step+f.Slew, 0), down+max(-f.Step-f.Slew, 0) }
				for range 6 * 60 {
					w.Run(time.Minute)
					moved := w.clock.slewed + w.clock.steer + w.clock.stepped
					crystal := honest*w.clock.at.Seconds() + interval // what is steered beyond honest is counted afterwards
					switch {
					case up > forward || down > backward:
						return false, fmt.Errorf("seed %d: after %s it was moved by %s forward and %s backward", seed, w.clock.at, up, down)
					case moved > forward.Seconds()+crystal || -moved > backward.Seconds()+crystal:
						return false, fmt.Errorf("seed %d: after %s the clock is moved by %s", seed, w.clock.at, near(moved))
					}
				}
				return w.trace.refused, nil
			}) {
				if n++; hit {
					refused++
				}
			}
			t.Logf("%-8s the limit was reached in %d worlds", p.Name, refused)
			if n >= enough && refused == 0 {
				t.Error("no world reached the limit: this tested nothing")
			}
		})
	}
}

// interval is what a frequency of 500 ppm moves the clock by, beyond 100 ppm, in
// the longest poll interval.
const interval = 400e-6 * 2048 * 1.1
