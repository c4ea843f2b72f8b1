package guardtest

import (
	"fmt"
	"time"

	"ntpveil/guard"
)

// Clock is a model of the kernel's clock and of its correction (package
// sysclock). It prints itself as text.
type Clock struct {
	Wall  time.Time // what it shows
	Floor time.Time // no step lands before it
	Slew  time.Duration
	Error time.Duration
	Sync  bool
}

// Fix is that of the adapter.
func (m *Clock) Fix(fix guard.Fix) guard.ClockSeen {
	after := m.Wall.Add(fix.Step)
	switch {
	case fix.Slew.Abs() > 500*time.Millisecond:
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("slew of %s: too long", fix.Slew)}
	case fix.Step != 0 && after.Before(m.Floor):
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("step by %s: before %s", fix.Step, m.Floor)}
	}
	m.Wall, m.Slew, m.Sync = after, fix.Slew, fix.Sync
	m.Error = min(max(fix.Error, 0), 16*time.Second)
	return guard.ClockSeen{Key: fix.Key, Made: fix.Step}
}

func (m *Clock) String() string {
	sync := "not synchronised"
	if m.Sync {
		sync = "synchronised"
	}
	return fmt.Sprintf("%s, %+.6f s to be slewed, %s within %s", m.Wall.UTC().Format(time.RFC3339Nano), m.Slew.Seconds(), sync, m.Error)
}
