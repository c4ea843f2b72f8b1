package timeworld

import (
	"errors"
	"math"
	"time"

	"ntpveil/guard"
)

const (
	maxSlew = 500 * time.Millisecond // the kernel's MAXPHASE
	maxFreq = 500                    // ppm: its MAXFREQ
	nothing = 0.5e-9                 // s
)

// clock is the kernel's clock over a crystal. Time is what the truth says, since
// the world began.
type clock struct {
	osc     *oscillator
	at      time.Duration
	behind  float64 // s: truth minus what it shows
	lost    float64 // s: the same, without steps: what the monotonic clock lost
	freq    float64 // ppm by which it is steered
	slew    float64 // s: still to be made up for
	part    float64 // of it that goes in a second
	chunk   float64 // s/s: what of it this second makes up for
	second  time.Duration
	slewed  float64 // s: made up for in sum
	steer   float64 // s: what the frequency made up for, in sum
	stepped float64 // s: stepped in sum
}

// advance lets time pass. The kernel takes its part of a slew at the beginning
// of a second and spreads it over that second.
func (c *clock) advance(to time.Duration) {
	for c.at < to {
		if c.at >= c.osc.until {
			c.osc.next()
		}
		next := min(to, c.osc.until)
		if c.slew != 0 || c.chunk != 0 {
			c.turn()
			next = min(next, c.second)
		}
		c.pass(next)
	}
}

// turn begins a second, if one is due.
func (c *clock) turn() {
	if c.at < c.second {
		return
	}
	if c.second += time.Second; c.second <= c.at {
		c.second = c.at + time.Second - c.subsecond()
	}
	c.chunk = c.slew * c.part
	if math.Abs(c.slew) < nothing {
		c.chunk = c.slew
	}
	c.slew -= c.chunk
}

// subsecond is how far the second that the clock shows has gone.
func (c *clock) subsecond() time.Duration {
	shown := (c.at - duration(c.behind)) % time.Second
	return (shown + time.Second) % time.Second
}

// rest is what the second that is under way still makes up for, at most.
func (c *clock) rest() float64 { return math.Abs(c.chunk) }

func (c *clock) pass(to time.Duration) {
	dt := (to - c.at).Seconds()
	steered, slewed := c.freq*1e-6*dt, c.chunk*dt
	by := c.osc.rate()*dt - steered - slewed
	c.behind, c.lost = c.behind+by, c.lost+by
	c.steer, c.slewed = c.steer+steered, c.slewed+slewed
	c.at = to
}

// step ends a slew, as in the kernel (ntp_clear).
func (c *clock) step(by time.Duration) {
	c.behind -= by.Seconds()
	c.stepped += by.Seconds()
	c.slew, c.chunk = 0, 0
}

// fix does what package sysclock does.
func (c *clock) fix(f guard.Fix) guard.ClockSeen {
	seen := guard.ClockSeen{Key: f.Key, Made: f.Step, Frequency: f.Frequency}
	switch {
	case f.Slew.Abs() > maxSlew || !(math.Abs(f.Frequency) <= maxFreq):
		return guard.ClockSeen{Key: f.Key, Err: errors.New("invalid argument")}
	case math.Abs(c.freq-f.Before) > 0.001 && !f.TakeOver:
		return guard.ClockSeen{Key: f.Key, Err: errors.New("another program steers it")}
	}
	if f.Step != 0 {
		c.step(f.Step)
	}
	if c.slew == 0 && c.chunk == 0 {
		c.second = c.at + time.Second - c.subsecond()
	}
	c.slew, c.part, c.freq = f.Slew.Seconds(), math.Exp2(-float64(2+f.Over)), f.Frequency
	return seen
}

func duration(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }
