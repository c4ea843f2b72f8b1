package sysclock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// Jumps tells of jumps of the host's clock.
type Jumps struct{}

// Watch calls jumped after every jump of the clock, ours too, and after a resume
// (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET). A slew is no jump, and of a paused
// virtual machine no clock knows. It returns when ctx is done.
func (Jumps) Watch(ctx context.Context, jumped func()) error {
	timer, err := farTimer()
	if err != nil {
		return err
	}
	return watch(ctx, timer, jumped)
}

// farTimer is a timer at the end of time, which only a jump of the clock ends.
func farTimer() (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make timer: %w", err)
	}
	f := os.NewFile(uintptr(fd), "timer")
	var never unix.ItimerSpec
	put(&never.Value.Sec, math.MaxInt64)
	if never.Value.Sec < 0 { // 32 bits
		put(&never.Value.Sec, math.MaxInt32)
	}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil && !errors.Is(err, unix.ECANCELED) {
		return nil, errors.Join(fmt.Errorf("set timer: %w", err), f.Close())
	}
	return f, nil
}

// reader is a timer, or what stands in for one.
type reader interface {
	Read(b []byte) (int, error)
	Close() error
}

// watch reads a timer until ctx is done. It stays set after a jump.
func watch(ctx context.Context, timer reader, jumped func()) error {
	stop := context.AfterFunc(ctx, func() { _ = timer.Close() })
	defer func() {
		if stop() {
			_ = timer.Close()
		}
	}()
	for ticks := make([]byte, 8); ; {
		_, err := timer.Read(ticks)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ECANCELED):
			jumped()
		case err != nil:
			return fmt.Errorf("read timer: %w", err)
		}
	}
}
