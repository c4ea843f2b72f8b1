package servo

import (
	"math"
	"time"
)

// decay is what is left after a second of a phase that is being slewed: the
// kernel's PLL at time constant 2 takes a sixteenth of it away each second.
const decay = 15.0 / 16

// Slew is a phase that the kernel works off, as it does it: at the begin of each
// second it takes a sixteenth of what is left, and spreads that over the second
// (second_overflow in kernel/time/ntp.c).
type Slew struct {
	Phase float64       // s
	First time.Duration // monotonic: the begin of the first such second
}

// Done is what of the phase went until a time, s.
func (s Slew) Done(at float64) float64 {
	whole, part := math.Modf(max(at-s.First.Seconds(), 0))
	left := math.Pow(decay, whole)
	return s.Phase * (1 - left + part*left*(1-decay))
}

// course is what was done to the clock.
type course struct {
	stepped time.Duration // in sum
	from    float64       // s, monotonic: when it was steered last
	sum     float64       // s: slewed until then
	freq    float64       // s/s since then
	slew    Slew          // that began then
}

// ahead is what slews and frequency made of the clock, at a time not before the
// last steering.
func (c *course) ahead(t float64) float64 {
	return c.sum + c.freq*max(t-c.from, 0) + c.slew.Done(t)
}

func (c *course) steer(t float64, slew Slew, freq float64) {
	c.sum, c.from = c.ahead(t), max(t, c.from)
	c.slew, c.freq = slew, freq
}
