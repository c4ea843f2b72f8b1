package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ntpveil/guard/selection"
)

// delayed has somebody on the way hold packets of one direction back: by so much
// on the way to those of the servers that he sits before.
func (w *ideal) delayed(servers int, by time.Duration) {
	w.tell = func(to netip.Addr, s *selection.Sample) {
		if slices.IndexFunc(fourServers, func(x Server) bool { return addr(x.Host) == to }) < servers {
			s.Offset, s.Delay = s.Offset+by/2, s.Delay+by.Abs() // negative: on the way back
		}
	}
}

// bounded lets time pass, and fails the test where the clock is off by more than
// the root distance that is reported. It returns the most that the clock was off.
func (w *ideal) bounded(what string, d time.Duration) (worst time.Duration) {
	for end := w.now.Mono + d; w.now.Mono < end; {
		w.run(30 * time.Second)
		s := w.g.Status(w.now)
		distance := time.Duration(s.Clock.RootDistance * float64(time.Second))
		if worst = max(worst, w.truth.Abs()); s.Synchronized && w.truth.Abs() > distance {
			w.t.Fatalf("%s: the clock is off by %s and claims %s", what, w.truth, distance)
		}
	}
	return worst
}

// TestDelayedOneWay: whoever delays one direction, of some servers or of all, from
// the start or later, moves the clock by no more than the root distance that is
// reported, which is half of the delay.
func TestDelayedOneWay(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{10 * time.Millisecond, -10 * time.Millisecond, 300 * time.Millisecond, -1500 * time.Millisecond, 4 * time.Second, -7 * time.Second} {
		for servers := 1; servers <= 4; servers++ {
			for _, after := range []time.Duration{0, 30 * time.Minute} {
				what := fmt.Sprintf("%d servers delayed by %s after %s", servers, by, after)
				w := newIdeal(t, nil)
				w.drift = 12
				w.start(0)
				worst := w.bounded(what, after)
				w.delayed(servers, by)
				worst = max(worst, w.bounded(what, 20*time.Minute))
				w.tell = nil
				worst = max(worst, w.bounded(what+", no longer", 20*time.Minute))
				if most := by.Abs()/2 + by.Abs()/100 + time.Millisecond; worst > most {
					t.Errorf("%s: the clock was off by %s", what, worst)
				}
			}
		}
	}
}

// TestDelayedEverMore: no jump tells of it, and the clock's frequency is pulled too.
func TestDelayedEverMore(t *testing.T) {
	t.Parallel()
	for _, perMinute := range []time.Duration{100 * time.Microsecond, time.Millisecond, -10 * time.Millisecond} {
		for servers := 2; servers <= 4; servers++ {
			what := fmt.Sprintf("%d servers delayed by %s more a minute", servers, perMinute)
			w := newIdeal(t, nil)
			w.drift = -31
			w.start(time.Hour)
			for i := range time.Duration(90) {
				w.delayed(servers, i*perMinute)
				w.bounded(what, time.Minute)
			}
			w.tell = nil
			w.bounded(what+", no longer", time.Hour)
		}
	}
}
