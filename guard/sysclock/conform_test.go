package sysclock

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/guardtest"
)

// kernel does with a system call what the kernel does (kernel/time/ntp.c), as far
// as corrections need it.
type kernel struct{ guardtest.Clock }

func (k *kernel) adjtime(tx *unix.Timex) (int, error) {
	if tx.Modes&unix.ADJ_SETOFFSET != 0 {
		if tx.Modes&unix.ADJ_NANO == 0 || tx.Time.Usec < 0 || int64(tx.Time.Usec) >= int64(time.Second) {
			return 0, unix.EINVAL
		}
		k.Wall = k.Wall.Add(time.Duration(tx.Time.Sec)*time.Second + time.Duration(tx.Time.Usec))
		k.Slew, k.Sync, k.Error = 0, false, maxError
	}
	if tx.Modes&unix.ADJ_STATUS != 0 {
		k.Sync = tx.Status&unix.STA_UNSYNC == 0
	}
	if tx.Modes&unix.ADJ_MAXERROR != 0 {
		k.Error = time.Duration(tx.Maxerror) * time.Microsecond
	}
	if tx.Modes&unix.ADJ_OFFSET != 0 && tx.Status&unix.STA_PLL != 0 {
		k.Slew = time.Duration(tx.Offset)
	}
	if tx.Modes&unix.ADJ_FREQUENCY != 0 {
		k.Freq = float64(tx.Freq) / perPPM
	}
	put(&tx.Freq, int64(k.Freq*perPPM))
	put(&tx.Tick, nominalTick)
	return 0, nil
}

func TestClockConforms(t *testing.T) {
	guardtest.ConformClock(t, func(*testing.T) guardtest.ClockBench {
		k := &kernel{guardtest.Clock{Wall: guardtest.ClockNoon, Error: maxError}}
		c := New(k.adjtime, guardtest.ClockFloor)
		c.now = func() guard.Instant { return guard.Instant{Wall: k.Wall} }
		return guardtest.ClockBench{Clock: c, Text: k.String}
	})
}
