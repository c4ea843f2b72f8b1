package timeworld

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
)

// summary prints what became of the clock since the last one. Errors and times
// are the next larger of 1, 2 and 5, so that a scenario holds what was decided and
// not what the servo made of the noise.
func (s *stage) summary(out *strings.Builder) {
	looks := between(s.trace.Looks, s.since, s.clock.at)
	rms, worst := RMS(looks)
	fmt.Fprintf(out, "clock: within %s, RMS %s, in the end %s; ", within(worst), within(rms), within(s.Off()))
	if at, ok := StaysBelow(looks, good); !ok {
		fmt.Fprintln(out, "not below 1 ms")
	} else {
		fmt.Fprintf(out, "below 1 ms for good after %s\n", soon(at-s.since))
	}
	s.made(out)
	st := s.Status()
	fmt.Fprintf(out, "status: synchronised %t, leap %s, frequency %+.0f ppm, root distance %s, asked every %.0f s\n",
		st.Synchronized, st.Clock.Leap, st.Clock.Frequency, within(st.Clock.RootDistance), s.poll())
	said := map[string]bool{}
	for _, n := range s.trace.since(s.notes) {
		if n = measured.ReplaceAllString(n, "#"); !said[n] {
			fmt.Fprintln(out, "said:", n)
		}
		said[n] = true
	}
	s.since, s.fixes, s.notes = s.clock.at, len(s.trace.Fixes), s.trace.told
}

// measured is a number that noise is in.
var measured = regexp.MustCompile(`[+-]?\d+\.\d+`)

// poll is the shortest poll interval.
func (s *stage) poll() float64 {
	shortest := math.Inf(1)
	for _, x := range s.Status().Servers {
		shortest = min(shortest, x.Poll)
	}
	return shortest
}

// made prints the corrections.
func (s *stage) made(out *strings.Builder) {
	var steps []string
	leaps := map[int]bool{}
	for _, f := range s.trace.Fixes[s.fixes:] {
		if f.Step != 0 {
			steps = append(steps, near(f.Step.Seconds()))
		}
		leaps[f.Leap] = true
	}
	fmt.Fprintf(out, "moved: %s, used of the limit %s forward and %s backward", what(len(s.trace.Fixes)-s.fixes, steps),
		within(s.kept.Clock.Forward.Seconds()), within(s.kept.Clock.Backward.Seconds()))
	if leaps[1] || leaps[2] {
		fmt.Fprint(out, "; the kernel is told of a leap second")
	}
	fmt.Fprintln(out)
}

func what(fixes int, steps []string) string {
	switch {
	case len(steps) > 0:
		return "stepped by " + strings.Join(steps, ", ")
	case fixes > 0:
		return "slewed"
	}
	return "not at all"
}

// servers prints one line a server.
func (s *stage) servers(out *strings.Builder) {
	for _, x := range s.Status().Servers {
		i := slices.IndexFunc(s.World.servers, func(y *server) bool { return y.addr.Addr().String() == x.Address })
		fmt.Fprintf(out, "server %d: %s", i, x.State)
		if x.State != "selected" && x.Reason != "" {
			fmt.Fprintf(out, ", %s", measured.ReplaceAllString(x.Reason, "#"))
		}
		fmt.Fprintln(out)
	}
}

// within is the next larger of 1, 2 and 5 times a power of ten, from 1 µs on.
func within(s float64) string {
	for unit := 1e-6; ; unit *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if math.Abs(s) <= n*unit {
				return near(n * unit)
			}
		}
	}
}

// soon is the next larger of 1, 2 and 5 times ten seconds, a minute, ten and an hour.
func soon(d time.Duration) time.Duration {
	for _, unit := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, 10 * time.Hour} {
		for _, n := range []time.Duration{1, 2, 5} {
			if d <= n*unit {
				return n * unit
			}
		}
	}
	return 100 * time.Hour
}

// near prints seconds with two digits.
func near(s float64) string {
	switch a := math.Abs(s); {
	case a < 0.5e-6:
		return "0"
	case a < 0.9995e-3:
		return digits(s*1e6) + " µs"
	case a < 0.9995:
		return digits(s*1e3) + " ms"
	}
	return digits(s) + " s"
}

func digits(x float64) string {
	if math.Abs(x) >= 9.95 || x == math.Round(x) {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.1f", x)
}
