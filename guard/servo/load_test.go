package servo

import (
	"math"
	"testing"
	"time"
)

// upload is a way that somebody's upload fills from one time to another, s: a queue
// of 40 ms in the mean on the way there, that all servers meet.
func upload(from, to int) path {
	return path{delay: func(c *clockSim, _ int) (float64, float64) {
		there, back := 1e-2+1e-3*c.r.ExpFloat64(), 1e-2+1e-3*c.r.ExpFloat64()
		if at := c.round * 64; at >= from && at < to {
			there += 2e-2 * (c.r.ExpFloat64() + c.r.ExpFloat64())
		}
		return there, back
	}, wander: 1e-9}
}

// TestUpload: an upload drags the clock neither while it lasts, be it from the
// second sync on, nor, where even the first met it, for long after it.
func TestUpload(t *testing.T) {
	for name, tt := range map[string]struct {
		from, to int
		since    time.Duration
		most     float64 // s RMS
	}{
		"for an hour, from the second sync on": {100, 3700, 10 * time.Minute, 5e-4},
		"for a day, hours later":               {10000, 96400, 3 * time.Hour, 1e-3},
		"of three minutes, from the start on":  {0, 200, 6 * time.Minute, 1.8e-4},
	} {
		sum := 0.0
		const seeds = 8
		for seed := range uint64(seeds) {
			e := newClockSim(upload(tt.from, tt.to), seed).run(newSteered(), 5*time.Hour, tt.since)
			sum += e * e / seeds
		}
		if rms := math.Sqrt(sum); rms > tt.most {
			t.Errorf("%s: %.3g s RMS", name, rms)
		} else {
			t.Logf("%s: %.3g s RMS", name, rms)
		}
	}
}
