package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrForbidden says that the process may not make the namespaces of a lab.
var ErrForbidden = errors.New("namespaces are not allowed here")

// marker names, to the program inside, the network namespace outside.
const marker = "NTPVEIL_LAB_OUTSIDE"

// Enter runs the program anew, isolated: in a network and a mount namespace of
// its own, without the right to move the clock, and, where the process is not
// privileged, in a user namespace where it is root. It returns true in the
// program inside, which goes on. Outside it returns false and the exit status
// of the one inside when that has ended. ErrForbidden: it cannot be.
//
// main and TestMain call it before anything else.
func Enter() (inside bool, status int, err error) {
	here, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return false, 1, fmt.Errorf("read network namespace: %w", err)
	}
	if outside := os.Getenv(marker); outside != "" && outside != here {
		return true, 0, settle()
	}
	status, err = again(here)
	return false, status, err
}

// Main is for TestMain: it runs the tests isolated and returns their exit
// status. Where that is forbidden they run as they are: ForTest skips.
func Main(run func() int) int {
	inside, status, err := Enter()
	switch {
	case inside && err == nil, errors.Is(err, ErrForbidden):
		return run()
	case err != nil:
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	return status
}

// settle makes the new namespaces usable.
func settle() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%w: open netlink: %w", ErrForbidden, err)
	}
	defer h.Close()
	if err := loopbackUp(h); err != nil {
		// A system that takes the rights of a user namespace away (AppArmor
		// does) lets it be made, and then refuses everything.
		return fmt.Errorf("%w: %w (kernel.apparmor_restrict_unprivileged_userns?)", ErrForbidden, err)
	}
	return nil
}

// again runs this program inside.
func again(here string) (status int, err error) {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...) // it lives as long as we do
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), marker+"="+here)
	cmd.SysProcAttr = diesWithUs()
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNET | unix.CLONE_NEWNS
	prepare := withoutClock
	if !privileged() {
		asRoot(cmd.SysProcAttr)
		prepare = func() error { return nil } // its rights end at its own namespace
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	defer signal.Stop(signals)
	exited, err := start(cmd, prepare)
	if err != nil {
		return 1, forbidden(err)
	}
	return relay(cmd, signals, exited), nil
}

// relay passes signals on until the program has ended.
func relay(cmd *exec.Cmd, signals <-chan os.Signal, exited <-chan struct{}) (status int) {
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case <-exited:
			_ = cmd.Wait()
			ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if ws.Signaled() {
				return 128 + int(ws.Signal())
			}
			return ws.ExitStatus()
		}
	}
}

func asRoot(a *syscall.SysProcAttr) {
	a.Cloneflags = unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
}

// forbidden tells why no user namespace could be made.
func forbidden(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: not root, and user namespaces are refused (kernel.unprivileged_userns_clone?): %w", ErrForbidden, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return fmt.Errorf("%w: not root, and no user namespace is left (user.max_user_namespaces?): %w", ErrForbidden, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: not root, and the kernel has no user namespaces: %w", ErrForbidden, err)
	}
	return fmt.Errorf("isolate: %w", err)
}

// privileged reports whether namespaces and their networks may be made without
// a user namespace.
func privileged() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return false
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return data[0].Effective&need == need
}
