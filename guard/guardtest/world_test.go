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
	asks, fixes, keyings, protected, n := 0, 0, 0, 0, *seeds
	if raced || testing.Short() {
		n = min(n, 60)
	}
	for s := range uint64(n) {
		w := runWorld(t, s+1)
		asks, fixes = asks+w.judge.Asks, fixes+w.judge.Fixes
		keyings, protected = keyings+w.judge.Keyings, protected+w.judge.Protected
	}
	t.Logf("%d worlds, %d queries (%d protected), %d key exchanges, %d corrections", n, asks, protected, keyings, fixes)
	if asks == 0 || fixes == 0 || keyings == 0 || protected == 0 {
		t.Fatal("the worlds stood still")
	}
}

func runWorld(t *testing.T, seed uint64) *World {
	t.Helper()
	w := NewWorld(seed)
	length := time.Hour
	if seed%10 == 0 {
		length = 6 * time.Hour
	}
	if err := w.Run(length); err != nil {
		t.Fatalf("seed %d: %v\n%s", seed, err, w.Tail(60))
	}
	return w
}
