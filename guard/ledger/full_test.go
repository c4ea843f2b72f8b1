package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"ntpveil/guard"
)

// TestFullDisk: a Write that found no room is an error that wraps the cause; what
// was acknowledged stays, and with room again it goes on. On a file system of its
// own, in a mount namespace; without root in a user namespace too.
func TestFullDisk(t *testing.T) {
	flags := uintptr(syscall.CLONE_NEWNS)
	if os.Getuid() != 0 {
		flags |= syscall.CLONE_NEWUSER
	}
	cmd := child(t, "full", t.TempDir(), flags)
	if os.Getuid() != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.Output()
	if errors.Is(err, syscall.EPERM) && os.Getuid() != 0 {
		t.Skip("no user namespaces here")
	}
	if err != nil || string(out) != "" {
		t.Errorf("%v: %s", err, out)
	}
}

// fullDisk runs in the child and says what is wrong.
func fullDisk(dir string) int {
	if err := tryFullDisk(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func tryFullDisk(dir string) error {
	if err := errors.Join(syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, ""), syscall.Mount("none", dir, "tmpfs", 0, "size=256k")); err != nil {
		return err
	}
	path, ballast := filepath.Join(dir, "ledger.db"), filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 120<<10), 0o600); err != nil {
		return err
	}
	l, err := Open(path)
	if err != nil {
		return err
	}
	n := 0
	for ; err == nil; n++ {
		err = l.Write([]guard.Record{exposure(n)})
	}
	if n--; n == 0 || !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("after %d writes: %w", n, err)
	}
	if err := holds(l, n); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(ballast), l.Write([]guard.Record{exposure(n)}), holds(l, n+1), l.Close()); err != nil {
		return err
	}
	if l, err = Open(path); err != nil {
		return err
	}
	if err := errors.Join(holds(l, n+1), l.Close()); err != nil {
		return err
	}
	return readOnly(dir, path)
}

func holds(l *Ledger, n int) error {
	s, err := l.Load()
	if err != nil || len(s.Exposures) != n {
		return fmt.Errorf("%d exposures, want %d, error %w", len(s.Exposures), n, err)
	}
	return nil
}

// readOnly: where nothing can be written nothing is opened, and nothing is made.
func readOnly(dir, path string) error {
	if err := syscall.Mount("none", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	for _, path := range []string{path, filepath.Join(dir, "other.db"), filepath.Join(dir, "made", "ledger.db")} {
		if _, err := Open(path); !errors.Is(err, syscall.EROFS) {
			return fmt.Errorf("open %s: %w, want EROFS", path, err)
		}
	}
	return nil
}
