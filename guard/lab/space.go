package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var errLeft = errors.New("the function ended its goroutine")

// onThread runs f on a thread that ends with it, so that what f does to the
// thread's namespaces reaches no other goroutine. (A thread that is locked,
// moved and unlocked poisons the scheduler's pool: 23 of 200 later goroutines ran
// in the wrong namespace.)
func onThread(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread never ends and would keep the namespace, and
			// /proc/self would show it: it is held while another one works.
			defer runtime.UnlockOSThread()
			ended <- onThread(f)
			return
		}
		err := errLeft
		defer func() { ended <- err }()
		err = f()
	}()
	return <-ended
}

// space is a network namespace without a name: it ends with the last
// descriptor, socket and program in it.
type space struct {
	fd     int
	handle *netlink.Handle
}

func newSpace() (*space, error) {
	s := new(space)
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open network namespace: %w", err)
		}
		if s.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			unix.Close(s.fd)
			return fmt.Errorf("open netlink: %w", err)
		}
		return nil
	})
	return s, err
}

// do runs f on a fresh thread in the namespace.
func (s *space) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

func (s *space) close() {
	s.handle.Close()
	unix.Close(s.fd)
}

// sysctls writes pairs of a path below /proc/sys/net and its value.
func (s *space) sysctls(pairs ...string) error {
	return s.do(func() error {
		for i := 0; i < len(pairs); i += 2 {
			if err := os.WriteFile("/proc/sys/net/"+pairs[i], []byte(pairs[i+1]), 0); err != nil {
				return fmt.Errorf("set sysctl: %w", err)
			}
		}
		return nil
	})
}

// loopbackUp makes ::1 and 127.0.0.1 work.
func loopbackUp(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}
