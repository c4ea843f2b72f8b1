package servo

import (
	"math"
	"time"
)

// decay is what is left after a second of a phase that is being slewed: the
// kernel's PLL at time constant 2 takes a sixteenth of it away each second.
const decay = 15.0 / 16

// course is what was done to the clock.
type course struct {
	stepped time.Duration // in sum
	from    float64       // s, monotonic: when it was steered last
	sum     float64       // s: slewed until then
	freq    float64       // s/s since then
	pending float64       // s: still to be slewed then
}

// ahead is what slews and frequency made of the clock, at a time not before the
// last steering.
func (c *course) ahead(t float64) float64 {
	dt := max(t-c.from, 0)
	return c.sum + c.freq*dt + c.pending*(1-math.Pow(decay, dt))
}

func (c *course) steer(t, pending, freq float64) {
	c.sum, c.from = c.ahead(t), max(t, c.from)
	c.pending, c.freq = pending, freq
}
