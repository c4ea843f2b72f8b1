package guardtest

import (
	"fmt"
	"math"
	"time"

	"ntpveil/guard"
)

// Clock is a model of the kernel's clock and of its correction (package
// sysclock). It prints itself as text.
type Clock struct {
	Wall  time.Time // what it shows
	Floor time.Time // no step lands before it
	Slew  time.Duration
	Freq  float64 // ppm by which it was made faster
	Error time.Duration
	Sync  bool

	Saved time.Time // when it was last saved; zero: never
	Told  bool      // others were told that it was synchronised
}

// Look is that of the adapter.
func (m *Clock) Look() guard.ClockSeen {
	return guard.ClockSeen{Frequency: m.Freq, Synced: m.Sync || m.Told, Right: m.Sync, Saved: m.Saved}
}

// Save is that of the adapter.
func (m *Clock) Save(s guard.Save) guard.Saved {
	if s.Synced || m.Wall.After(m.Saved) {
		m.Saved = m.Wall
	}
	m.Told = m.Told || s.Synced
	return guard.Saved{Key: s.Key}
}

// Fix is that of the adapter.
func (m *Clock) Fix(fix guard.Fix) guard.ClockSeen {
	after := m.Wall.Add(fix.Step)
	switch {
	case fix.Slew.Abs() > 500*time.Millisecond:
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("slew of %s: too long", fix.Slew)}
	case fix.Step != 0 && after.Before(m.Floor):
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("step by %s: before %s", fix.Step, m.Floor)}
	case !(math.Abs(fix.Frequency) <= 500):
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("frequency of %g ppm: too high", fix.Frequency)}
	case math.Abs(m.Freq-fix.Before) > 0.001 && !fix.TakeOver:
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("frequency of %g ppm: somebody else's", m.Freq)}
	}
	m.Wall, m.Slew, m.Sync, m.Freq = after, fix.Slew, fix.Sync, fix.Frequency
	m.Error = min(max(fix.Error, 0), 16*time.Second)
	return guard.ClockSeen{Key: fix.Key, Made: fix.Step, Frequency: fix.Frequency}
}

func (m *Clock) String() string {
	sync := "not synchronised"
	if m.Sync {
		sync = "synchronised"
	}
	return fmt.Sprintf("%s, %+.6f s to be slewed, %+.3f ppm, %s within %s", m.Wall.UTC().Format(time.RFC3339Nano), m.Slew.Seconds(), m.Freq, sync, m.Error)
}
