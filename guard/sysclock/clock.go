package sysclock

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

const (
	maxSlew  = 500 * time.Millisecond // the kernel's MAXPHASE
	maxError = 16 * time.Second       // its NTP_PHASE_LIMIT: from there on it calls itself unsynchronised
	// decay is the exponent of the PLL: each second 2^-(2+decay) of what is left
	// of the phase goes. 2 is the kernel's own default: two thirds are gone in 16 s,
	// and all of it before the shortest poll interval is over.
	decay = 2
)

// Call is clock_adjtime(CLOCK_REALTIME, tx), or what stands in for it.
type Call func(tx *unix.Timex) (state int, err error)

// Kernel is the real system call.
func Kernel(tx *unix.Timex) (int, error) { return unix.ClockAdjtime(unix.CLOCK_REALTIME, tx) }

// Clock is the kernel's clock.
type Clock struct {
	call  Call
	floor time.Time
	now   func() time.Time
}

// New makes a clock of a system call. floor is the date before which no step may
// land: the build date.
func New(call Call, floor time.Time) *Clock { return &Clock{call: call, floor: floor, now: time.Now} }

// Fix makes one correction: a step, or a slew in place of what is left of the
// one before, and the kernel's idea of the error.
func (c *Clock) Fix(fix guard.Fix) guard.ClockSeen {
	tx, err := c.fix(fix)
	if err != nil {
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("correct clock: %w", err)}
	}
	return guard.ClockSeen{Key: fix.Key, Made: fix.Step, Frequency: float64(tx.Freq) / (1 << 16)}
}

// fix returns the call's struct as the kernel filled it in.
func (c *Clock) fix(fix guard.Fix) (*unix.Timex, error) {
	after := c.now().Add(fix.Step)
	switch {
	case fix.Slew.Abs() > maxSlew:
		return nil, fmt.Errorf("slew of %s: above %s", fix.Slew, maxSlew)
	case fix.Step != 0 && after.Before(c.floor):
		return nil, fmt.Errorf("step by %s: %s is before %s", fix.Step, after.UTC().Format(time.RFC3339), c.floor.UTC().Format(time.RFC3339))
	}
	tx := &unix.Timex{}
	if !step(tx, fix.Step) {
		return nil, fmt.Errorf("step by %s: more than clock_adjtime takes on this machine", fix.Step)
	}
	slew(tx, fix.Slew)
	describe(tx, fix, after)
	_, err := c.call(tx)
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("clock_adjtime: CAP_SYS_TIME is missing: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("clock_adjtime: %w", err)
	}
	return tx, nil
}

// Observer pretends: it touches nothing.
type Observer struct{}

// Fix reports that nothing was made.
func (Observer) Fix(fix guard.Fix) guard.ClockSeen { return guard.ClockSeen{Key: fix.Key} }
