package sysclock

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// Modes and status bits of struct timex (linux/timex.h).
const (
	adjOffset    = 0x0001
	adjMaxError  = 0x0004
	adjEstError  = 0x0008
	adjStatus    = 0x0010
	adjSetOffset = 0x0100
	adjNano      = 0x2000

	staPLL    = 0x0001
	staIns    = 0x0010
	staDel    = 0x0020
	staUnsync = 0x0040
	staNano   = 0x2000

	maxSlew = 500 * time.Millisecond // the kernel's MAXPHASE
)

// Call is clock_adjtime(CLOCK_REALTIME, tx), or what stands in for it.
type Call func(tx *unix.Timex) (state int, err error)

// Kernel is the real system call.
func Kernel(tx *unix.Timex) (int, error) { return unix.ClockAdjtime(unix.CLOCK_REALTIME, tx) }

// Clock is the kernel's clock.
type Clock struct {
	call  Call
	floor time.Time // no step lands before it
	now   func() time.Time
}

// New makes a clock of a system call. floor is the date before which no step may
// land: the build date.
func New(call Call, floor time.Time) *Clock { return &Clock{call: call, floor: floor, now: time.Now} }

// Fix makes one correction: a step, or a slew, and the kernel's idea of the error.
func (c *Clock) Fix(fix guard.Fix) guard.ClockSeen {
	made, err := c.fix(fix)
	if err != nil {
		err = fmt.Errorf("adjust clock: %w", err)
	}
	return guard.ClockSeen{Key: fix.Key, Made: made, Err: err}
}

func (c *Clock) fix(fix guard.Fix) (made time.Duration, err error) {
	if fix.Slew.Abs() > maxSlew {
		return 0, fmt.Errorf("a slew of %s is above %s", fix.Slew, maxSlew)
	}
	if fix.Step != 0 {
		if target := c.now().Add(fix.Step); target.Before(c.floor) {
			return 0, fmt.Errorf("%s is before %s", target.UTC().Format(time.RFC3339), c.floor.UTC().Format(time.RFC3339))
		}
		if err := c.do(step(fix.Step)); err != nil {
			return 0, err
		}
		made = fix.Step
	}
	return made, c.do(discipline(fix))
}

func (c *Clock) do(tx *unix.Timex) error {
	_, err := c.call(tx)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("CAP_SYS_TIME is missing: %w", err)
	case err != nil:
		return err
	}
	return nil
}

// step adds to the clock at once. With ADJ_NANO the microseconds of struct timex
// are nanoseconds, which must not be negative.
func step(d time.Duration) *unix.Timex {
	sec, nsec := int64(d/time.Second), int64(d%time.Second)
	if nsec < 0 {
		sec, nsec = sec-1, nsec+int64(time.Second)
	}
	tx := &unix.Timex{Modes: adjSetOffset | adjNano}
	tx.Time.Sec = sized(sec, tx.Time.Sec)
	tx.Time.Usec = sized(nsec, tx.Time.Usec)
	return tx
}

// sized fits a number into a field of struct timex, whose width depends on the machine.
func sized[T int32 | int64](v int64, _ T) T { return T(v) }

// discipline hands the rest of the offset to the kernel's PLL and tells it the
// error, whether the clock is synchronised, and a leap second that is due.
func discipline(fix guard.Fix) *unix.Timex {
	tx := &unix.Timex{Modes: adjStatus | adjMaxError | adjEstError | adjNano}
	tx.Status = staPLL | staNano
	if !fix.Sync {
		tx.Status |= staUnsync
	}
	switch fix.Leap {
	case 1:
		tx.Status |= staIns
	case 2:
		tx.Status |= staDel
	}
	micro := int64(min(max(fix.Error, 0), 16*time.Second) / time.Microsecond)
	tx.Maxerror, tx.Esterror = sized(micro, tx.Maxerror), sized(micro, tx.Esterror)
	if fix.Slew != 0 {
		tx.Modes |= adjOffset
		tx.Offset = sized(int64(fix.Slew), tx.Offset)
	}
	return tx
}

// Observer pretends: it touches nothing.
type Observer struct{}

// Fix reports that nothing was made.
func (Observer) Fix(fix guard.Fix) guard.ClockSeen { return guard.ClockSeen{Key: fix.Key} }
