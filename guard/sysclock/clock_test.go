package sysclock

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

var build = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// record makes a clock whose system calls are written down.
func record(fail error) (*Clock, *[]string) {
	var calls []string
	c := New(func(tx *unix.Timex) (int, error) {
		calls = append(calls, fmt.Sprintf("modes=%#x time=%d.%09d offset=%d status=%#x maxerror=%d", tx.Modes, tx.Time.Sec, tx.Time.Usec, tx.Offset, tx.Status, tx.Maxerror))
		return 0, fail
	}, build)
	c.now = func() time.Time { return time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC) }
	return c, &calls
}

func TestExactCalls(t *testing.T) {
	for _, tt := range []struct {
		name string
		fix  guard.Fix
		want string
	}{
		{"step forward", guard.Fix{Key: 1, Step: 1500 * time.Millisecond, Error: time.Millisecond, Sync: true},
			"modes=0x2100 time=1.500000000 offset=0 status=0x0 maxerror=0\nmodes=0x201c time=0.000000000 offset=0 status=0x2001 maxerror=1000"},
		{"step back by less than a second", guard.Fix{Key: 1, Step: -250 * time.Millisecond, Sync: true},
			"modes=0x2100 time=-1.750000000 offset=0 status=0x0 maxerror=0\nmodes=0x201c time=0.000000000 offset=0 status=0x2001 maxerror=0"},
		{"slew", guard.Fix{Key: 1, Slew: -3 * time.Millisecond, Error: 20 * time.Millisecond, Sync: true},
			"modes=0x201d time=0.000000000 offset=-3000000 status=0x2001 maxerror=20000"},
		{"a leap second to insert", guard.Fix{Key: 1, Sync: true, Leap: 1}, "modes=0x201c time=0.000000000 offset=0 status=0x2011 maxerror=0"},
		{"a leap second to delete", guard.Fix{Key: 1, Sync: true, Leap: 2}, "modes=0x201c time=0.000000000 offset=0 status=0x2021 maxerror=0"},
		{"not synchronised", guard.Fix{Key: 1, Error: time.Hour}, "modes=0x201c time=0.000000000 offset=0 status=0x2041 maxerror=16000000"},
	} {
		c, calls := record(nil)
		seen := c.Fix(tt.fix)
		if got := strings.Join(*calls, "\n"); got != tt.want || seen.Err != nil || seen.Made != tt.fix.Step || seen.Key != 1 {
			t.Errorf("%s:\n%s\nwant\n%s\nseen %+v", tt.name, got, tt.want, seen)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, fix := range map[string]guard.Fix{
		"before the build":    {Step: -365 * 24 * time.Hour},
		"a slew beyond 0.5 s": {Slew: time.Second},
	} {
		c, calls := record(nil)
		if seen := c.Fix(fix); seen.Err == nil || seen.Made != 0 || len(*calls) != 0 {
			t.Errorf("%s: %+v, calls %v", name, seen, *calls)
		}
	}
	c, _ := record(unix.EPERM)
	if seen := c.Fix(guard.Fix{Slew: 1}); !errors.Is(seen.Err, unix.EPERM) || !strings.Contains(seen.Err.Error(), "CAP_SYS_TIME") {
		t.Errorf("without the capability: %v", seen.Err)
	}
}

func TestObserverTouchesNothing(t *testing.T) {
	if seen := (Observer{}).Fix(guard.Fix{Key: 7, Step: time.Hour}); seen != (guard.ClockSeen{Key: 7}) {
		t.Errorf("%+v", seen)
	}
}

func TestNowIsMonotonicAndWallIsBare(t *testing.T) {
	a, b := Now(), Now()
	if b.Mono < a.Mono || b.Boot < a.Boot || a.Boot < a.Mono || a.Wall != a.Wall.Round(0) {
		t.Errorf("%v, then %v", a, b)
	}
}
