package servo

import (
	"math"
	"time"
)

// Slew is a phase that the kernel's PLL works off, as it does it: at the begin of
// each second it takes a part of what is left, and spreads that over the second
// (second_overflow in kernel/time/ntp.c).
type Slew struct {
	Phase    float64       // s
	First    time.Duration // monotonic: the begin of the first such second
	Constant int           // of time: the part is 2^-(2+Constant), 0 to 10
}

// Done is what of the phase went until a time, s.
func (s Slew) Done(at float64) float64 {
	whole, second := math.Modf(max(at-s.First.Seconds(), 0))
	part := math.Exp2(-float64(2 + s.Constant))
	left := math.Pow(1-part, whole)
	return s.Phase * (1 - left + second*left*part)
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
