package sysclock

import (
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// Now reads the three clocks: the one place where the daemon asks for the time.
func Now() guard.Instant {
	return guard.Instant{Mono: read(unix.CLOCK_MONOTONIC), Boot: read(unix.CLOCK_BOOTTIME), Wall: time.Now().Round(0)}
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
