package sysclock

import (
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
)

// TestLocalTimeInTheHardwareClock: the kernel is not told that its clock is
// synchronised, or it would write UTC there; all else is as it is.
func TestLocalTimeInTheHardwareClock(t *testing.T) {
	const call = "modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 1000000 ns, frequency 0, tick 10000, constant 0, status "
	for text, want := range map[string]string{
		"":                         "pll|freqhold",
		"0.0 0 0.0\n0\nUTC\n":      "pll|freqhold",
		"0.0 0 0.0\n0\n":           "pll|freqhold",
		"0.0 0 0.0\n0\nLOCAL\n":    "pll|unsync|freqhold",
		"0.0 0 0.0\n0\nLOCAL":      "pll|unsync|freqhold",
		"0.0 0 0.0\n0\nUTC\nLOCAL": "pll|freqhold",
		"0.0 0 LOCAL\n0\nLOCALE\n": "pll|freqhold",
	} {
		c, calls := record(may, nil)
		c.Files = files(t)
		if text != "" {
			place(t, c.Files.Adjtime, text, may)
		}
		local := strings.Contains(want, "unsync")
		seen := c.Fix(guard.Fix{Key: 1, Slew: time.Millisecond, Error: 20 * time.Millisecond, Sync: true})
		if got := strings.Join(*calls, "\n"); got != call+want+", maxerror 20000 us, esterror 20000 us" {
			t.Errorf("%q: %s", text, got)
		}
		if seen.Err != nil || seen.LocalRTC != local || c.Look().LocalRTC != local {
			t.Errorf("%q: %+v", text, seen)
		}
	}
}

func FuzzAdjtime(f *testing.F) {
	f.Add([]byte("0.0 0 0.0\n0\nLOCAL\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := strings.Split(string(text), "\n")
		if want := len(lines) > 2 && strings.TrimRight(lines[2], " \t\r") == "LOCAL"; saysLocal(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	})
}
