package clockbench

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
)

func TestScores(t *testing.T) {
	points := []Point{{0, 9}, {time.Minute, 3}, {2 * time.Minute, -4}}
	e := from(points, time.Minute)
	if got, want := rms(e), math.Sqrt(12.5); len(e) != 2 || got != want {
		t.Errorf("RMS of %v is %g, want %g", e, got, want)
	}
	if quantile(e, 0.5) != 3 || quantile(e, 0.99) != 4 || quantile(nil, 0.5) != 0 || rms(nil) != 0 {
		t.Errorf("quantiles %g and %g", quantile(e, 0.5), quantile(e, 0.99))
	}
}

// The interval is Student's of the logarithms: computed by hand for three pairs.
func TestRatio(t *testing.T) {
	r := ratioOf([]float64{math.E, 1, 1}, []float64{1, 1, math.E})
	half := 4.303 / math.Sqrt(3)
	if math.Abs(r.Mean-1) > 1e-9 || math.Abs(math.Log(r.High)-half) > 1e-9 || math.Abs(math.Log(r.Low)+half) > 1e-9 {
		t.Errorf("%+v, want 1 and exp of ±%g", r, half)
	}
	if r := ratioOf([]float64{2}, []float64{1}); r.Mean != 2 || !math.IsInf(r.High, 1) {
		t.Errorf("one pair says %+v", r)
	}
}

// made is a table in which ntpveil's errors are so many times chronyd's.
func made(times float64) Table {
	var t Table
	for seed := range uint64(5) {
		e := 1e-3 * float64(seed+1)
		flat := func(e float64) []Point { return []Point{{time.Minute, e}, {2 * time.Minute, -e}} }
		t = append(t, Outcome{World: World{Profile: Profiles[5], Polls: Equal, Seed: seed, Length: time.Hour, Warm: time.Minute},
			Errors: map[string][]Point{"ntpveil": flat(times * e), "chronyd": flat(e), "zero": flat(30 * e), "last": flat(2 * e),
				"PLL 1": flat(e), "PLL 2": flat(e), "PLL 3": flat(e), "PLL 4": flat(50 * e)},
			Usable: map[string]time.Duration{"ntpveil": 2 * time.Second, "chronyd": 5 * time.Second}})
	}
	return t
}

func TestWhatIsMissed(t *testing.T) {
	if missed := made(1.05).Missed(); len(missed) != 0 {
		t.Errorf("missed %q", missed)
	}
	if missed := made(1.2).Missed(); len(missed) != 1 {
		t.Errorf("1.2 times chronyd's misses %q", missed)
	}
	if missed := made(6).Missed(); len(missed) != 2 { // a fifth of sqrt((1+1+1+2500)/4) = 25 is 5
		t.Errorf("6 times chronyd's misses %q", missed)
	}
	late := made(1)
	for _, o := range late {
		delete(o.Usable, "ntpveil")
	}
	if missed := late.Missed(); len(missed) != 1 {
		t.Errorf("never usable misses %q", missed)
	}
}

// A control that is as good as chronyd makes the bench fail.
func TestControls(t *testing.T) {
	table := made(1)
	if passing := table.Controls(new(bytes.Buffer)); len(passing) != 0 {
		t.Errorf("passing: %q", passing)
	}
	for _, o := range table {
		o.Errors["last"] = o.Errors["chronyd"]
	}
	var tables Tables
	for _, o := range table {
		tables.add(o)
	}
	for _, o := range table {
		o.Profile = Floor
		tables.add(o) // of which nothing is required
	}
	var out strings.Builder
	if passing := tables.Print(&out); len(passing) != 1 || !strings.Contains(passing[0], `"last"`) {
		t.Errorf("passing: %q", passing)
	}
	for _, want := range []string{"| disagreeing | 3.32 ms, 3 ms, 5 ms |", "1 (1 to 1)", "| 2.0 s, 5.0 s |", "met\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, &out)
		}
	}
}
