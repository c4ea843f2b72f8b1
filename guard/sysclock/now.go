package sysclock

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// Now reads the three clocks: the one place where the daemon asks for the time.
func Now() guard.Instant { return instant(read) }

const (
	atOnce = time.Millisecond // within which readings are of one instant
	tries  = 10
)

// instant is what three clocks say at once. On a busy machine the thread may have
// to wait between two of them, which would look like a jump: the quickest of several
// tries counts.
func instant(read func(clock int32) time.Duration) (best guard.Instant) {
	least := time.Duration(math.MaxInt64)
	for range tries {
		now := guard.Instant{Mono: read(unix.CLOCK_MONOTONIC), Boot: read(unix.CLOCK_BOOTTIME), Wall: time.Unix(0, int64(read(unix.CLOCK_REALTIME)))}
		took := read(unix.CLOCK_MONOTONIC) - now.Mono
		if took < least {
			best, least = now, took
		}
		if took < atOnce {
			break
		}
	}
	return best
}

// Mono reads CLOCK_MONOTONIC, on which deadlines are set.
func Mono() time.Duration { return read(unix.CLOCK_MONOTONIC) }

// read cannot fail for clocks that every kernel has.
func read(clock int32) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		panic("clock_gettime: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
