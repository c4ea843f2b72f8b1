package lab_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// output is what a program prints, trimmed.
func output(t *testing.T, c *lab.Cmd) string {
	t.Helper()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestProgramSeesItsNode(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	sh := func(script string) *lab.Cmd { return l.Host.Command(soon(t), "sh", "-c", script) }
	if got, want := output(t, sh("cat /etc/resolv.conf")), "nameserver "+l.DNS.Addr6.String(); got != want {
		t.Errorf("resolv.conf: %q, want %q", got, want)
	}
	if got := output(t, sh("ls /sys/class/net")); got != "eth0\nlo" {
		t.Errorf("devices in /sys: %q", got)
	}
	if got := output(t, sh("grep -c . /proc/net/if_inet6")); got != "3" {
		t.Errorf("%s IPv6 addresses in /proc, want ::1, link-local and global", got)
	}
	if got := output(t, sh("ls -A /run").Mount("/run", "")); got != "" {
		t.Errorf("/run: %q", got)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kept"), []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := output(t, sh("cat /run/kept; echo after > /run/kept").Mount("/run", dir)); got != "before" {
		t.Errorf("/run/kept: %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "kept")); string(got) != "after\n" {
		t.Errorf("kept: %q, %v", got, err)
	}
}

// TestResolvConfMayLeadAnywhere: on most machines it is a link into /run.
func TestResolvConfMayLeadAnywhere(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	etc := t.TempDir()
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(etc, "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	c := l.Host.Command(soon(t), "cat", "/etc/resolv.conf").Mount("/etc", etc).Mount("/run", "")
	if got := output(t, c); !strings.HasSuffix(got, l.DNS.Addr6.String()) {
		t.Errorf("resolv.conf: %q", got)
	}
}

func TestProgramCannotMoveTheClock(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	for _, set := range []string{"CapEff", "CapBnd", "CapPrm"} {
		text := strings.Fields(output(t, l.Host.Command(soon(t), "grep", set, "/proc/self/status")))[1]
		caps, err := strconv.ParseUint(text, 16, 64)
		if err != nil || caps&(1<<unix.CAP_NET_ADMIN) == 0 || caps&(1<<unix.CAP_SYS_TIME) != 0 {
			t.Errorf("%s is %s, %v", set, text, err)
		}
	}
}

func TestProgramThatCannotStart(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	if err := l.Host.Command(t.Context(), "/nowhere/at/all").Start(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := l.Host.Command(t.Context(), "true").Mount("/nowhere/at/all", "").Start(); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := l.Host.Command(t.Context(), "true").Wait(); err == nil {
		t.Error("waited for what was not started")
	}
	var failed *exec.ExitError
	if err := l.Host.Command(t.Context(), "sh", "-c", "exit 3").Run(); !errors.As(err, &failed) || failed.ExitCode() != 3 {
		t.Error(err)
	}
	l.Close()
	if err := l.Host.Command(t.Context(), "true").Run(); err == nil {
		t.Error("started in a closed lab")
	}
}

// family starts a shell with a child that does not end when it is asked to, and
// returns a descriptor of the child that becomes readable when it is gone.
func family(t *testing.T, c *lab.Cmd) (child int) {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return openPID(t, bufio.NewScanner(out))
}

const familyScript = `sh -c 'trap "" TERM; exec sleep 600' >/dev/null & echo $!; wait`

func openPID(t *testing.T, lines *bufio.Scanner) int {
	t.Helper()
	if !lines.Scan() {
		t.Fatal("no PID was told", lines.Err())
	}
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func gone(t *testing.T, pidfd int) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			t.Errorf("still there after 10 s: %v", err)
		}
		return
	}
}

func TestProgramsEnd(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := l.Host.Command(ctx, "sh", "-c", familyScript)
	stopped := l.Host.Command(t.Context(), "sh", "-c", familyScript)
	closed := l.Host.Command(t.Context(), "sh", "-c", familyScript)
	children := []int{family(t, cancelled), family(t, stopped), family(t, closed)}
	cancel()
	if err := cancelled.Wait(); err == nil {
		t.Error("cancelled and yet well")
	}
	gone(t, children[0])
	if err := stopped.Stop(soon(t)); err == nil {
		t.Error("stopped and yet well")
	}
	gone(t, children[1])
	l.Close()
	gone(t, children[2])
	select {
	case <-closed.Exited():
	default:
		t.Error("Close did not wait for the program")
	}
}

func TestProgramsEndWithUs(t *testing.T) {
	if os.Getenv("LAB_HOLDS_A_PROGRAM") != "" {
		l := lab.ForTest(t, lab.Options{})
		c := l.Host.Command(t.Context(), "sh", "-c", "echo $$; exec sleep 600")
		c.Stdout = os.Stdout
		t.Error(c.Run()) // until we are killed
		return
	}
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	us := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^TestProgramsEndWithUs$")
	us.Env = append(os.Environ(), "LAB_HOLDS_A_PROGRAM=1")
	out, err := us.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := us.Start(); err != nil {
		t.Fatal(err)
	}
	program := openPID(t, bufio.NewScanner(out))
	if err := us.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, program)
	_ = us.Wait() // killed
}
