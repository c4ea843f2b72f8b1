package clockbench

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// What is to be met.
const (
	mostToChronyd = 1.10
	mostToPLL     = 0.20
)

// Table is the outcomes of one profile and one kind of polls, one a seed.
type Table []Outcome

// each is a figure of every world.
func (t Table) each(f func(Outcome) float64) (out []float64) {
	for _, o := range t {
		out = append(out, f(o))
	}
	return out
}

// errors are those of a program in all worlds, once it runs.
func (t Table) errors(program string) (out []float64) {
	for _, o := range t {
		out = append(out, from(o.Errors[program], o.Warm)...)
	}
	return out
}

// to is the ratio of a program's RMS to another's.
func (t Table) to(program, other string) Ratio {
	return ratioOf(t.each(rmsOf(program)), t.each(rmsOf(other)))
}

// rmsOf is a program's in one world. That of "PLL" is of a host that follows one of
// the servers, whichever: the mean square over them.
func rmsOf(program string) func(Outcome) float64 {
	return func(o Outcome) float64 {
		var sum, n float64
		for name, points := range o.Errors {
			if name == program || program == "PLL" && strings.HasPrefix(name, program) {
				sum += math.Pow(rms(from(points, o.Warm)), 2)
				n++
			}
		}
		return math.Sqrt(sum / n)
	}
}

// usable is when a program first was; it counts as the whole length where it
// never was.
func usable(program string) func(Outcome) float64 {
	return func(o Outcome) float64 {
		if at, ever := o.Usable[program]; ever {
			return at.Seconds()
		}
		return o.Length.Seconds()
	}
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// perDay are a program's exchanges with all servers in a day, at the rate of the
// second half.
func perDay(program string) func(Outcome) float64 {
	return func(o Outcome) float64 {
		n := 0
		for _, at := range o.Exchanges[program] {
			if at > o.Length/2 && at < o.Length {
				n++
			}
		}
		return float64(n) / (o.Length / 2).Hours() * 24
	}
}

func mean(of []float64) (m float64) {
	for _, x := range of {
		m += x / float64(len(of))
	}
	return m
}

// Columns begins a table of programs.
func Columns(w io.Writer) {
	fmt.Fprintln(w, "| profile | ntpveil: RMS, p50, p99 | chronyd: RMS, p50, p99 | ratio of RMS, 95 % interval | usable after: ntpveil, chronyd | exchanges a day: ntpveil, chronyd |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- |")
}

// Row compares ntpveil with chronyd.
func (t Table) Row(w io.Writer) {
	fmt.Fprintf(w, "| %s |", t[0].Profile.Name)
	for _, p := range []string{"ntpveil", "chronyd"} {
		e := t.errors(p)
		fmt.Fprintf(w, " %s, %s, %s |", short(rms(e)), short(quantile(e, 0.5)), short(quantile(e, 0.99)))
	}
	fmt.Fprintf(w, " %s | %.1f s, %.1f s | %.0f, %.0f |\n", t.to("ntpveil", "chronyd"),
		median(t.each(usable("ntpveil"))), median(t.each(usable("chronyd"))),
		mean(t.each(perDay("ntpveil"))), mean(t.each(perDay("chronyd"))))
}

// Missed says in words what a profile misses of what is to be met.
func (t Table) Missed() (out []string) {
	if r := t.to("ntpveil", "chronyd"); r.High > mostToChronyd {
		out = append(out, fmt.Sprintf("its RMS may be %.2f times chronyd's, above %.2f", r.High, mostToChronyd))
	}
	if r := t.to("ntpveil", "PLL"); t[0].Lie != 0 && r.High > mostToPLL {
		out = append(out, fmt.Sprintf("its RMS may be %.2f times that of a PLL on one server, above %.2f", r.High, mostToPLL))
	}
	if ours, theirs := median(t.each(usable("ntpveil"))), median(t.each(usable("chronyd"))); ours > theirs {
		out = append(out, fmt.Sprintf("usable after %.1f s, chronyd after %.1f s", ours, theirs))
	}
	return out
}

// Controls says how far off chronyd those are that do not keep time, and which of
// them pass all the same: then the rig tells nothing.
func (t Table) Controls(w io.Writer) (passing []string) {
	fmt.Fprintf(w, "| %s |", t[0].Profile.Name)
	for _, p := range []string{"zero", "last", "PLL"} {
		r := t.to(p, "chronyd")
		fmt.Fprintf(w, " %s, %s |", short(rms(t.each(rmsOf(p)))), r)
		if p != "PLL" && !(r.Mean > mostToChronyd && r.High > mostToChronyd) { // a NaN too
			passing = append(passing, fmt.Sprintf("%s: control %q passes: %.2f of chronyd's error", t[0].Profile.Name, p, r.Mean))
		}
	}
	fmt.Fprintf(w, " %s |\n", t.to("ntpveil", "PLL"))
	return passing
}

// ControlColumns begins a table of controls.
func ControlColumns(w io.Writer) {
	fmt.Fprintln(w, "| profile | always 0: RMS, ratio to chronyd | last sample | PLL on one server | ntpveil to that PLL |\n| --- | --- | --- | --- | --- |")
}

// short writes a time with the unit that suits it.
func short(s float64) string {
	switch {
	case s < 1e-3:
		return fmt.Sprintf("%.3g µs", s*1e6)
	case s < 1:
		return fmt.Sprintf("%.3g ms", s*1e3)
	}
	return fmt.Sprintf("%.3g s", s)
}
