package query

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/guardtest"
	"ntpveil/guard/selection"
	"ntpveil/guard/sysclock"
)

// TestAgreesWithChrony asks a chronyd that has the same clock.
func TestAgreesWithChrony(t *testing.T) {
	chronyd, err := exec.LookPath("chronyd")
	if err != nil {
		t.Skip("chronyd is not installed (make setup installs it)")
	}
	dir, done := t.TempDir(), make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with its namespace
		done <- inOwnNet(chronyd, dir, func() error {
			return errors.Join(
				agrees(t, netip.MustParseAddrPort("[::1]:123")),
				agrees(t, netip.MustParseAddrPort("127.0.0.1:123")))
		})
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skip("a network namespace takes root, or unshare -rn")
	} else if err != nil {
		t.Error(err)
	}
}

// inOwnNet runs f beside a chronyd, in a network namespace of this thread's own.
func inOwnNet(chronyd, dir string, f func() error) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := guardtest.Loopback(); err != nil {
		return err
	}
	cmd := exec.Command(chronyd, "-x", "-d", "-u", "root",
		"local stratum 2", "allow", "cmdport 0", "bindcmdaddress /", "pidfile "+filepath.Join(dir, "pid"))
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	return f()
}

// agrees asks until chronyd is up, and then a few times more.
func agrees(t *testing.T, to netip.AddrPort) error {
	best := selection.Sample{Delay: time.Hour}
	answers := 0
	for tries := 0; answers < 8; tries++ {
		ev := once(t, to, 100*time.Millisecond)
		switch {
		case ev.Err == nil:
			answers++
			if ev.Sample.Delay < best.Delay {
				best = ev.Sample
			}
		case tries > 100:
			return fmt.Errorf("ask chronyd at %s: %w", to, ev.Err)
		}
	}
	t.Logf("%s: offset %s, delay %s, root distance %s", to, best.Offset, best.Delay, best.RootDistance())
	if best.Offset.Abs() > time.Millisecond || best.Delay > 10*time.Millisecond || best.Stratum != 2 || best.Leap != 0 || best.At > sysclock.Mono() {
		return fmt.Errorf("chronyd at %s disagrees: %+v", to, best)
	}
	return nil
}
