package sysclock

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
)

var (
	_ daemon.Clock = (*Clock)(nil)
	_ daemon.Clock = Observer{}

	build = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	may   = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
)

// record makes a clock at a time whose system calls are written down, apart from
// those that only read and the one that ends what another program began.
func record(at time.Time, fail error) (*Clock, *[]string) {
	var calls []string
	c := New(func(tx *unix.Timex) (int, error) {
		if tx.Modes == 0 || tx.Modes == unix.ADJ_OFFSET_SINGLESHOT {
			return quiet(tx)
		}
		calls = append(calls, text(tx))
		return 0, fail
	}, build)
	c.now = func() guard.Instant { return guard.Instant{Wall: at} }
	return c, &calls
}

// text is a system call as a person reads it.
func text(tx *unix.Timex) string {
	s := "modes " + bits(int64(tx.Modes), map[int64]string{unix.ADJ_SETOFFSET: "setoffset", unix.ADJ_OFFSET: "offset", unix.ADJ_TIMECONST: "timeconst",
		unix.ADJ_STATUS: "status", unix.ADJ_MAXERROR: "maxerror", unix.ADJ_ESTERROR: "esterror", unix.ADJ_FREQUENCY: "frequency", unix.ADJ_NANO: "nano", unix.ADJ_TICK: "tick"})
	if tx.Modes&unix.ADJ_SETOFFSET != 0 {
		s += fmt.Sprintf(", time %d s %d ns", tx.Time.Sec, tx.Time.Usec)
	}
	return s + fmt.Sprintf(", offset %d ns, frequency %d, tick %d, constant %d, status %s, maxerror %d us, esterror %d us", tx.Offset, tx.Freq, tx.Tick, tx.Constant,
		bits(int64(tx.Status), map[int64]string{unix.STA_PLL: "pll", unix.STA_FREQHOLD: "freqhold", unix.STA_INS: "ins", unix.STA_DEL: "del", unix.STA_UNSYNC: "unsync"}),
		tx.Maxerror, tx.Esterror)
}

func bits(v int64, names map[int64]string) string {
	var out []string
	for b := int64(1); v != 0; b <<= 1 {
		if v&b == 0 {
			continue
		}
		v &^= b
		name, known := names[b]
		if !known {
			name = fmt.Sprintf("%#x", b)
		}
		out = append(out, name)
	}
	return strings.Join(out, "|")
}

func TestExactCalls(t *testing.T) {
	june, december := time.Date(2026, 6, 30, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		at   time.Time
		fix  guard.Fix
		want string
	}{
		{"step forward", may, guard.Fix{Step: 1500 * time.Millisecond, Error: time.Millisecond, Sync: true},
			"modes offset|frequency|maxerror|esterror|status|timeconst|setoffset|nano|tick, time 1 s 500000000 ns, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|freqhold, maxerror 1000 us, esterror 1000 us"},
		{"step back by less than a second", may, guard.Fix{Step: -250 * time.Millisecond, Sync: true},
			"modes offset|frequency|maxerror|esterror|status|timeconst|setoffset|nano|tick, time -1 s 750000000 ns, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|freqhold, maxerror 0 us, esterror 0 us"},
		{"step back by whole seconds", may, guard.Fix{Step: -2 * time.Second, Sync: true},
			"modes offset|frequency|maxerror|esterror|status|timeconst|setoffset|nano|tick, time -2 s 0 ns, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|freqhold, maxerror 0 us, esterror 0 us"},
		{"slew", may, guard.Fix{Slew: -3 * time.Millisecond, Over: 2, Error: 20 * time.Millisecond, Sync: true},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset -3000000 ns, frequency 0, tick 10000, constant 2, status pll|freqhold, maxerror 20000 us, esterror 20000 us"},
		{"steer", may, guard.Fix{Slew: time.Millisecond, Frequency: -12.3456, Sync: true},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 1000000 ns, frequency -809081, tick 10000, constant 0, status pll|freqhold, maxerror 0 us, esterror 0 us"},
		{"nothing to move ends an earlier slew", may, guard.Fix{Sync: true},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|freqhold, maxerror 0 us, esterror 0 us"},
		{"not synchronised", may, guard.Fix{Error: time.Hour},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|unsync|freqhold, maxerror 16000000 us, esterror 16000000 us"},
		{"a negative error", may, guard.Fix{Error: -time.Hour, Sync: true},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|freqhold, maxerror 0 us, esterror 0 us"},
		{"a leap second tonight", june, guard.Fix{Sync: true, Leap: 1},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|ins|freqhold, maxerror 0 us, esterror 0 us"},
		{"one less tonight", december, guard.Fix{Sync: true, Leap: 2},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|del|freqhold, maxerror 0 us, esterror 0 us"},
		{"a leap second weeks ahead", june.Add(-time.Second), guard.Fix{Sync: true, Leap: 1},
			"modes offset|frequency|maxerror|esterror|status|timeconst|nano|tick, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|freqhold, maxerror 0 us, esterror 0 us"},
		{"a step over the midnight of a leap second", december, guard.Fix{Sync: true, Leap: 1, Step: time.Hour},
			"modes offset|frequency|maxerror|esterror|status|timeconst|setoffset|nano|tick, time 3600 s 0 ns, offset 0 ns, frequency 0, tick 10000, constant 0, status pll|freqhold, maxerror 0 us, esterror 0 us"},
	} {
		c, calls := record(tt.at, nil)
		tt.fix.Key = 1
		seen := c.Fix(tt.fix)
		if got := strings.Join(*calls, "\n"); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
		if seen != (guard.ClockSeen{Key: 1, At: guard.Instant{Wall: tt.at}, Made: tt.fix.Step, Frequency: tt.fix.Frequency}) {
			t.Errorf("%s: seen %+v", tt.name, seen)
		}
	}
}

func TestRefusalsTouchNothing(t *testing.T) {
	for name, fix := range map[string]guard.Fix{
		"before the build":                {Step: build.Sub(may) - time.Nanosecond},
		"a slew beyond half a second":     {Slew: maxSlew + 1},
		"a slew back by more than that":   {Slew: -maxSlew - 1},
		"a frequency beyond 500 ppm":      {Frequency: -500.01},
		"somebody else's frequency":       {Before: 1, Frequency: 1, Slew: time.Millisecond},
		"a step with a slew that is none": {Step: time.Second, Slew: time.Hour},
	} {
		c, calls := record(may, nil)
		if seen := c.Fix(fix); seen.Err == nil || seen.Made != 0 || len(*calls) != 0 {
			t.Errorf("%s: %+v, calls %v", name, seen, *calls)
		}
	}
	c, calls := record(may, nil)
	if seen := c.Fix(guard.Fix{Step: build.Sub(may)}); seen.Err != nil || len(*calls) != 1 {
		t.Errorf("a step onto the build date: %+v", seen)
	}
}

func TestAFailedCallMadeNothing(t *testing.T) {
	c, calls := record(may, unix.EPERM)
	seen := c.Fix(guard.Fix{Key: 3, Step: time.Second})
	if !errors.Is(seen.Err, unix.EPERM) || !strings.Contains(seen.Err.Error(), "CAP_SYS_TIME") || seen.Made != 0 || seen.Key != 3 || len(*calls) != 1 {
		t.Errorf("%+v, calls %v", seen, *calls)
	}
}

func TestTheFrequencyIsTheKernels(t *testing.T) {
	status := int32(unix.STA_UNSYNC)
	c := New(func(tx *unix.Timex) (int, error) {
		tx.Freq, tx.Tick, tx.Status = -3<<15, 9998, status
		if tx.Modes != 0 {
			t.Error("a look that sets something")
		}
		return 0, nil
	}, build)
	if seen := c.Look(); seen != (guard.ClockSeen{Frequency: -201.5}) {
		t.Errorf("%+v", seen)
	}
	if status = unix.STA_PLL; !c.Look().Synced || !c.Look().Right {
		t.Error("it says that it is synchronised")
	}
}

// TestAForeignTick is a frequency that another program made.
func TestAForeignTick(t *testing.T) {
	calls := 0
	c := New(func(tx *unix.Timex) (int, error) {
		if tx.Modes != 0 {
			calls++
		}
		tx.Freq, tx.Tick = 20<<16, 10001
		return 0, nil
	}, build)
	if seen := c.Fix(guard.Fix{Before: 20, Slew: time.Millisecond}); seen.Err == nil || !strings.Contains(seen.Err.Error(), "+120.000 ppm") || calls != 0 {
		t.Errorf("%+v, %d calls", seen, calls)
	}
}

// TestAForeignSlew ends with the first correction that is made, and where an admin has
// the clock taken over.
func TestAForeignSlew(t *testing.T) {
	ended := 0
	c := New(func(tx *unix.Timex) (int, error) {
		if tx.Modes == unix.ADJ_OFFSET_SINGLESHOT && tx.Offset == 0 {
			ended++
		}
		return quiet(tx)
	}, build)
	for i, tt := range []struct {
		fix   guard.Fix
		ended int
	}{
		{guard.Fix{Before: 1}, 0}, {guard.Fix{Slew: time.Millisecond}, 1}, {guard.Fix{Slew: time.Millisecond}, 1}, {guard.Fix{TakeOver: true}, 2},
	} {
		if c.Fix(tt.fix); ended != tt.ended {
			t.Errorf("correction %d: ended %d times", i, ended)
		}
	}
}

func TestNarrowFieldsAreNoticed(t *testing.T) {
	var narrow int32
	if put(&narrow, 1<<31) || !put(&narrow, -1<<31) {
		t.Error("a value that does not fit 32 bits")
	}
}

func TestObserverTouchesNothing(t *testing.T) {
	if seen := (Observer{}).Fix(guard.Fix{Key: 7, Step: time.Hour}); seen != (guard.ClockSeen{Key: 7}) {
		t.Errorf("%+v", seen)
	}
}

// TestNowIsOneInstant, however long the thread had to wait: else it looks as if
// another program had set the clock, there and back.
func TestNowIsOneInstant(t *testing.T) {
	for stall := range 4 * 3 {
		var now time.Duration
		reads := 0
		at := instant(func(clock int32) time.Duration {
			if now++; reads == stall {
				now += 3 * time.Second
			}
			reads++
			if clock == unix.CLOCK_REALTIME {
				return now + time.Hour
			}
			return now
		})
		if off := at.Wall.Sub(time.Unix(3600, 0)) - at.Boot; off.Abs() > time.Millisecond || (at.Boot-at.Mono).Abs() > time.Millisecond {
			t.Errorf("a wait before reading %d: %+v", stall, at)
		}
	}
}

func TestNowIsMonotonicAndWallIsBare(t *testing.T) {
	a, b := Now(), Now()
	if b.Mono < a.Mono || b.Boot < a.Boot || a.Boot < a.Mono || a.Wall != a.Wall.Round(0) {
		t.Errorf("%v, then %v", a, b)
	}
}
