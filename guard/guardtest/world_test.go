package guardtest

import (
	"flag"
	"testing"
	"time"
)

var (
	seeds = flag.Int("seeds", 1000, "how many random worlds to run")
	seed  = flag.Uint64("seed", 0, "the one world to run")
)

// TestWorld runs random worlds: every promise of the core is judged by the
// world's truth after every Step. A failure prints its seed.
func TestWorld(t *testing.T) {
	if *seed != 0 {
		runWorld(t, *seed)
		return
	}
	asks, fixes := 0, 0
	for s := range uint64(*seeds) {
		w := runWorld(t, s+1)
		asks, fixes = asks+w.judge.Asks, fixes+w.judge.Fixes
	}
	t.Logf("%d worlds, %d queries, %d corrections", *seeds, asks, fixes)
	if asks == 0 || fixes == 0 {
		t.Fatal("the worlds stood still")
	}
}

func runWorld(t *testing.T, seed uint64) *World {
	t.Helper()
	w := NewWorld(seed)
	if err := w.Run(6 * time.Hour); err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, w.Tail(60))
	}
	return w
}
