package clockbench

import (
	"flag"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ntpveil/guard/lab"
)

var (
	whole        = flag.Bool("bench-clock", false, "measure all profiles, rather than try the rig")
	seeds        = flag.Int("seeds", 20, "worlds of each profile")
	defaultSeeds = flag.Int("default-seeds", 5, "worlds of each profile with each program's own poll intervals")
	length       = flag.Duration("length", 40*time.Minute, "how long each world lives")
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }

// build builds ntpveil as it is in this tree.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "ntpveil")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "ntpveil/cmd/ntpveil")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build ntpveil: %v: %s", err, out)
	}
	return binary
}

// TestBenchClock prints the tables where -bench-clock is given, and fails if a
// control passes. Else it tries the rig with one short world.
func TestBenchClock(t *testing.T) {
	if !*whole {
		truthful(t)
		return
	}
	s := Suite{Binary: build(t), Length: *length, Seeds: *seeds, DefaultSeeds: *defaultSeeds}
	tables, err := s.Run(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, complaint := range tables.Print(os.Stdout) {
		t.Error(complaint)
	}
}

// truthful: without delays both programs come to what is true, with its sign, the
// controls do not, and both are usable in time.
func truthful(t *testing.T) {
	w := World{Profile: Floor, Polls: Equal, Seed: 1, Length: 45 * time.Second, Warm: 35 * time.Second, Every: time.Second / 2, Binary: build(t)}
	o, err := w.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"ntpveil", "chronyd"} {
		if e := from(o.Errors[program], w.Warm); len(e) == 0 || rms(e) > 2e-3 {
			t.Errorf("%s is off by %s at %d instants, with %g s to find", program, short(rms(e)), len(e), startPhase)
		}
		if at, ever := o.Usable[program]; !ever || at > 20*time.Second {
			t.Errorf("%s is usable after %s", program, at)
		}
		if n := len(o.Exchanges[program]); n < Servers || n > 8*Servers {
			t.Errorf("%s made %d exchanges", program, n)
		}
	}
	for _, control := range []string{"zero", "last"} {
		if got := rmsOf(control)(o) / rmsOf("chronyd")(o); !(got > 2*mostToChronyd) || math.IsInf(got, 1) {
			t.Errorf("control %s is off %.2f times as far as chronyd", control, got)
		}
	}
}
