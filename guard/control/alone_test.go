package control

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ownName is an abstract name that no other test and no daemon has.
func ownName(t *testing.T) string { return "@" + strings.ReplaceAll(t.TempDir(), "/", ".") }

func TestAloneIsClaimedOnce(t *testing.T) {
	name := ownName(t)
	first, err := claim(name)
	if err != nil {
		t.Fatal(err)
	}
	for range 5000 { // more than can wait to be accepted
		if second, err := claim(name); !errors.Is(err, ErrNotAlone) {
			t.Fatalf("claimed twice: %v, %v", second, err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claim(name)
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	again.Close()
}

// Anybody can take an abstract name; that must not keep the daemon from starting.
func TestWhoIsNoDaemonKeepsNobodyOut(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Run("another user listens", func(t *testing.T) {
			name := ownName(t)
			l := listenAs(t, name, 65534)
			defer l.Close()
			mayStart(t, name)
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		name := ownName(t)
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}); err != nil {
			t.Fatal(err)
		}
		mayStart(t, name)
	})
}

func mayStart(t *testing.T, name string) {
	t.Helper()
	began := time.Now()
	c, err := claim(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
}

// listenAs takes a name as another user, on a thread that ends with its goroutine.
func listenAs(t *testing.T, name string, uid uintptr) *net.UnixListener {
	t.Helper()
	done := make(chan *net.UnixListener)
	var errno syscall.Errno
	go func() {
		runtime.LockOSThread() // and never unlocked
		var l *net.UnixListener
		if _, _, errno = syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); errno == 0 {
			l, _ = net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		}
		done <- l
	}()
	l := <-done
	if l == nil {
		t.Skip("needs another user, which this user namespace may not have:", errno)
	}
	return l
}
