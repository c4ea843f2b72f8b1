package sysclock

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ntpveil/guard/daemon"
)

var _ daemon.Jumps = Jumps{}

// fakeTimer ends a read with each error that comes; the tests may not set the
// machine's clock.
type fakeTimer struct {
	ends   chan error
	closed chan struct{}
}

func (f fakeTimer) Read([]byte) (int, error) {
	select {
	case err := <-f.ends:
		return 8, err
	case <-f.closed:
		return 0, os.ErrClosed
	}
}

func (f fakeTimer) Close() error {
	close(f.closed)
	return nil
}

func TestEveryJumpIsTold(t *testing.T) {
	timer := fakeTimer{make(chan error), make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	jumps, done := make(chan struct{}), make(chan error)
	go func() { done <- watch(ctx, timer, func() { jumps <- struct{}{} }) }()
	for range 3 {
		timer.ends <- &os.PathError{Op: "read", Path: "timer", Err: unix.ECANCELED}
		<-jumps
		timer.ends <- nil // it ran out: no jump
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-timer.closed
}

func TestATimerThatFailsIsNamed(t *testing.T) {
	timer := fakeTimer{make(chan error, 1), make(chan struct{})}
	timer.ends <- unix.EIO
	err := watch(t.Context(), timer, func() { t.Error("a jump") })
	if !errors.Is(err, unix.EIO) || !strings.HasPrefix(err.Error(), "read timer: ") {
		t.Error(err)
	}
	<-timer.closed
}

// TestTheRealTimerRests: nothing jumps here, and it ends when it is told to.
func TestTheRealTimerRests(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	timer, err := farTimer()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- watch(ctx, timer, func() { t.Error("a jump") }) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := timer.Read(make([]byte, 8)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("still open: %v", err)
	}
}
