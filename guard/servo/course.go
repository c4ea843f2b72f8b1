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
	left := math.Pow(1-s.part(), whole)
	return s.Phase * (1 - left + second*left*s.part())
}

// part of what is left goes each second.
func (s Slew) part() float64 { return math.Exp2(-float64(2 + s.Constant)) }

// rate is how fast the phase goes at a time, s/s.
func (s Slew) rate(at float64) float64 {
	if at < s.First.Seconds() {
		return 0
	}
	return s.Phase * s.part() * math.Pow(1-s.part(), math.Floor(at-s.First.Seconds()))
}

// course is what was done to the clock.
type course struct {
	stepped time.Duration // in sum
	cut     bool          // the last step ended a slew that was under way
	from    float64       // s, monotonic: when it was steered last
	sum     float64       // s: slewed until then
	freq    float64       // s/s since then
	rest    float64       // s/s: the rate of the slew before, until this one begins
	slew    Slew          // that began then
}

// ahead is what slews and frequency made of the clock, at a time not before the
// last steering.
func (c *course) ahead(t float64) float64 {
	dt := max(t-c.from, 0)
	return c.sum + c.freq*dt + c.rest*min(dt, c.wait()) + c.slew.Done(t)
}

// wait is how long after the last steering its slew begins.
func (c *course) wait() float64 { return max(c.slew.First.Seconds()-c.from, 0) }

// steer begins another slew. The kernel keeps the rate of the one before until
// the second is over; a step ends it at once.
func (c *course) steer(t float64, slew Slew, freq float64) {
	rate := c.rateAt(t)
	if c.cut {
		rate = 0
	}
	c.sum, c.from = c.ahead(t), max(t, c.from)
	c.slew, c.freq, c.rest, c.cut = slew, freq, rate, false
}

// rateAt is how fast the clock is slewed at a time.
func (c *course) rateAt(t float64) float64 {
	if t < c.slew.First.Seconds() {
		return c.rest
	}
	return c.slew.rate(t)
}

// coming is what the second that is under way still brings, whatever slew is begun
// now: next is when the next second begins.
func (c *course) coming(t, next float64) float64 { return c.rateAt(t) * max(next-t, 0) }
