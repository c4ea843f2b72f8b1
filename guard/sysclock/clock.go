package sysclock

import (
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

const (
	maxSlew      = 500 * time.Millisecond // the kernel's MAXPHASE
	maxFrequency = 500                    // ppm: its MAXFREQ
	perPPM       = 1 << 16
	nominalTick  = 10_000           // us by which the kernel makes its clock go 100 times a second
	tickPPM      = 100              // of one more
	maxError     = 16 * time.Second // its NTP_PHASE_LIMIT: from there on it calls itself unsynchronised
	// rounding is what a frequency may differ by, in ppm, when it is read back: the
	// kernel's own unit is 2^-32 ns/s.
	rounding = 0.001
)

// Call is clock_adjtime(CLOCK_REALTIME, tx), or what stands in for it.
type Call func(tx *unix.Timex) (state int, err error)

// Kernel is the real system call.
func Kernel(tx *unix.Timex) (int, error) { return unix.ClockAdjtime(unix.CLOCK_REALTIME, tx) }

// Clock is the kernel's clock.
type Clock struct {
	Files Files // set before its first use
	call  Call
	floor time.Time
	now   func() guard.Instant
	ours  bool // nothing that another program began is under way any more
}

// New makes a clock of a system call. floor is the date before which no step may
// land: the build date.
func New(call Call, floor time.Time) *Clock { return &Clock{call: call, floor: floor, now: Now} }

// Look reads the frequency and what was saved. It needs no privilege.
func (c *Clock) Look() guard.ClockSeen {
	freq, synced, err := c.found()
	saved, epoch, before := c.Files.before()
	return guard.ClockSeen{Frequency: freq, Synced: synced || c.Files.synced(), Right: synced, LocalRTC: c.Files.localRTC(), Saved: saved, Epoch: epoch, Err: errors.Join(err, before)}
}

// found is by how many ppm the kernel makes its clock faster, and whether it calls it
// synchronised. Time daemons do the former by tick as well: chronyd beyond 50 ppm.
func (c *Clock) found() (freq float64, synced bool, err error) {
	tx := &unix.Timex{}
	if err := c.adjust(tx); err != nil {
		return 0, false, fmt.Errorf("read clock: %w", err)
	}
	return float64(tx.Freq)/perPPM + float64(tx.Tick-nominalTick)*tickPPM, tx.Status&unix.STA_UNSYNC == 0, nil
}

// Fix makes one correction: a step, or a slew in place of what is left of the
// one before, the frequency, and the kernel's idea of the error.
func (c *Clock) Fix(fix guard.Fix) guard.ClockSeen {
	local := c.Files.localRTC()
	if err := c.fix(fix, local); err != nil {
		return guard.ClockSeen{Key: fix.Key, Err: fmt.Errorf("correct clock: %w", err)}
	}
	return guard.ClockSeen{Key: fix.Key, At: c.now(), Made: fix.Step, Frequency: fix.Frequency, LocalRTC: local}
}

func (c *Clock) fix(fix guard.Fix, localRTC bool) error {
	after := c.now().Wall.Add(fix.Step)
	switch {
	case fix.Slew.Abs() > maxSlew:
		return fmt.Errorf("slew of %s: above %s", fix.Slew, maxSlew)
	case !(math.Abs(fix.Frequency) <= maxFrequency): // a NaN too
		return fmt.Errorf("frequency of %+.3f ppm: above %d ppm", fix.Frequency, maxFrequency)
	case fix.Step != 0 && after.Before(c.floor):
		return fmt.Errorf("step by %s: %s is before %s", fix.Step, after.UTC().Format(time.RFC3339), c.floor.UTC().Format(time.RFC3339))
	}
	tx := &unix.Timex{}
	if !step(tx, fix.Step) {
		return fmt.Errorf("step by %s: more than clock_adjtime takes on this machine", fix.Step)
	}
	if err := c.unsteered(fix); err != nil {
		return err
	}
	if err := c.takeOver(fix); err != nil {
		return err
	}
	slew(tx, fix.Slew, fix.Over)
	steer(tx, fix.Frequency)
	describe(tx, fix, after)
	if localRTC {
		tx.Status |= unix.STA_UNSYNC
	}
	return c.adjust(tx)
}

// unsteered checks that nobody else steers: the frequency is as it was left.
func (c *Clock) unsteered(fix guard.Fix) error {
	found, _, err := c.found()
	if err != nil || fix.TakeOver || math.Abs(found-fix.Before) <= rounding {
		return err
	}
	return fmt.Errorf("another program steers it: its frequency is %+.3f ppm and was left at %+.3f ppm; "+
		"stop that program, then `ntpveil sync --step` takes the clock over", found, fix.Before)
}

// takeOver ends what adjtime(3) of another program began, once: at 500 ppm it goes on
// for hours after that one, and no correction ends it by itself.
func (c *Clock) takeOver(fix guard.Fix) error {
	if c.ours && !fix.TakeOver {
		return nil
	}
	err := c.adjust(&unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT})
	c.ours = err == nil
	return err
}

func (c *Clock) adjust(tx *unix.Timex) error {
	_, err := c.call(tx)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("clock_adjtime: CAP_SYS_TIME is missing: %w", err)
	}
	if err != nil {
		return fmt.Errorf("clock_adjtime: %w", err)
	}
	return nil
}

// Observer pretends: it touches nothing.
type Observer struct{ *Clock }

// Save reports that nothing was saved.
func (Observer) Save(s guard.Save) guard.Saved { return guard.Saved{Key: s.Key} }

// Fix reports that nothing was made.
func (Observer) Fix(fix guard.Fix) guard.ClockSeen { return guard.ClockSeen{Key: fix.Key} }
