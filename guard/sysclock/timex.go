package sysclock

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// step adds to the clock at once. With ADJ_NANO the microseconds of struct timex
// are nanoseconds, which must not be negative. It reports whether the fields,
// which have 32 bits on some machines, can hold the step.
func step(tx *unix.Timex, d time.Duration) bool {
	if d == 0 {
		return true
	}
	sec, nsec := int64(d/time.Second), int64(d%time.Second)
	if nsec < 0 {
		sec, nsec = sec-1, nsec+int64(time.Second)
	}
	tx.Modes |= unix.ADJ_SETOFFSET | unix.ADJ_NANO
	return put(&tx.Time.Sec, sec) && put(&tx.Time.Usec, nsec)
}

// slew hands an offset to the kernel's PLL. The frequency stays as it is: left
// free, the PLL at its default would add 8 ppm for each millisecond of offset, and
// at a poll interval of 256 s or more that is an oscillation that grows.
func slew(tx *unix.Timex, d time.Duration, over int) {
	tx.Modes |= unix.ADJ_OFFSET | unix.ADJ_TIMECONST | unix.ADJ_STATUS | unix.ADJ_NANO
	tx.Status |= unix.STA_PLL | unix.STA_FREQHOLD
	put(&tx.Offset, int64(d))
	put(&tx.Constant, int64(over))
}

// steer sets the frequency, which stays when this program is gone: it is what
// the crystal needs. All of it: another program may have left some in the tick.
func steer(tx *unix.Timex, freq float64) {
	tx.Modes |= unix.ADJ_FREQUENCY | unix.ADJ_TICK
	put(&tx.Freq, int64(math.Round(freq*perPPM)))
	put(&tx.Tick, nominalTick)
}

// describe tells the kernel the error, whether the clock is synchronised, and a
// leap second that is due. after is the time once the correction is made.
func describe(tx *unix.Timex, fix guard.Fix, after time.Time) {
	tx.Modes |= unix.ADJ_STATUS | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR
	if !fix.Sync {
		tx.Status |= unix.STA_UNSYNC
	}
	tx.Status |= leap(fix.Leap, after)
	micro := min(max(fix.Error, 0), maxError).Microseconds()
	put(&tx.Maxerror, micro)
	put(&tx.Esterror, micro)
}

// leap is the status bit of a leap second that comes at the end of this day. The
// header of NTP announces it up to a month ahead, but the kernel would insert it
// at the next midnight. Every one there ever was came at the end of June or December.
func leap(announced int, at time.Time) int32 {
	_, month, day := at.UTC().Date()
	if !(month == time.June && day == 30 || month == time.December && day == 31) {
		return 0
	}
	switch announced {
	case 1:
		return unix.STA_INS
	case 2:
		return unix.STA_DEL
	}
	return 0
}

// put sets a field of struct timex, whose width depends on the machine, and
// reports whether it holds the value.
func put[T int32 | int64](field *T, v int64) bool {
	*field = T(v)
	return int64(*field) == v
}
