package servo

import "math"

// tilt is what the last rounds tell of which direction is loaded: by how much the
// offset changes with the delay, from half of it there to minus half back (chrony
// corrects for it too, sourcestats.c). Only readings of one round are compared:
// they have one phase.
type tilt struct {
	xx, xy, yy, n float64 // sums over readings, about the means of their rounds
	slope         float64 // -1/2 to 1/2
	sure          float64 // deviation of slope
	rest          float64 // s: deviation of an offset once the slope is taken away
}

const (
	tiltKept  = 0.8 // of what was known, a round later
	tiltLeast = 0.3 // less of a slope is a load on both directions
	tiltSure  = 5   // deviations that are no chance
)

// learn takes delays and offsets of a round in, s.
func (t *tilt) learn(delays, offsets []float64) {
	n := float64(len(delays))
	if n < 3 {
		return
	}
	var x, y float64
	for i := range delays {
		x, y = x+delays[i]/n, y+offsets[i]/n
	}
	t.xx, t.xy, t.yy, t.n = t.xx*tiltKept, t.xy*tiltKept, t.yy*tiltKept, t.n*tiltKept
	for i := range delays {
		t.xx += (delays[i] - x) * (delays[i] - x)
		t.xy += (delays[i] - x) * (offsets[i] - y)
		t.yy += (offsets[i] - y) * (offsets[i] - y)
	}
	t.n += n - 1
	if !(t.xx > 0) {
		return
	}
	t.slope = min(max(t.xy/t.xx, -0.5), 0.5)
	t.rest = math.Sqrt(max(t.yy-t.slope*t.slope*t.xx, 0) / t.n)
	t.sure = t.rest / math.Sqrt(t.xx)
}

// plain reports whether one direction is so much more loaded that it is no chance.
func (t *tilt) plain() bool { return math.Abs(t.slope) > max(tiltLeast, tiltSure*t.sure) }
