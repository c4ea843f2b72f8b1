package lab

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// start runs prepare on a thread of its own and the program as that thread's
// child, in whatever namespaces prepare entered. The thread stays until the
// program has ended, since the kernel sends Pdeathsig when the thread ends that
// started the program. exited is closed when the program can be waited for;
// what it left behind in its process group is ended by then.
func start(cmd *exec.Cmd, prepare func() error) (exited chan struct{}, err error) {
	started := make(chan error, 1)
	exited = make(chan struct{})
	go func() {
		defer close(exited)
		_ = onThread(func() error {
			err := prepare()
			if err == nil {
				err = cmd.Start()
			}
			started <- err
			if err == nil {
				awaitExit(cmd)
			}
			return nil
		})
	}()
	return exited, <-started
}

// awaitExit leaves the child to be reaped by its owner: its process group
// cannot be another one's yet.
func awaitExit(cmd *exec.Cmd) {
	pid := cmd.Process.Pid
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if cmd.SysProcAttr.Setpgid {
		_ = unix.Kill(-pid, unix.SIGKILL) // nobody left: that is well
	}
}

// withoutClock gives up, for this thread and what it starts, what would let a
// program move the machine's clock, which no namespace holds.
func withoutClock() error {
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_TIME, 0, 0, 0); err != nil {
		return fmt.Errorf("give up the clock: %w", err)
	}
	return nil
}

func diesWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
