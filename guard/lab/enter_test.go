package lab_test

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ntpveil/guard/lab"
)

// outside is the environment without what tells a program that it is inside.
func outside() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NTPVEIL_LAB_") })
}

func TestWorksWithoutRoot(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v",
		"-test.run=^(TestHostConfiguresItself|TestEveryNodeReachesEveryOther|TestProgramSeesItsNode|TestProgramCannotMoveTheClock|TestScannerFindsWhatIsOpen|TestRealServersAnswer|TestWhoWeAre)$")
	cmd.Env, cmd.Dir = append(outside(), "TMPDIR=/tmp", "LAB_TELL_WHO=1"), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EPERM) { // no such user, or no setgroups(2)
		t.Skip("cannot become another user here: all of this runs in a user namespace already")
	}
	text := string(out)
	if err != nil || strings.Count(text, "\n--- PASS") != 7 || strings.Contains(text, "--- SKIP") {
		t.Errorf("%v\n%s", err, text)
	}
	if !strings.Contains(text, "user 0 is [0 65534 1]") {
		t.Errorf("not as the user that was meant:\n%s", text)
	}
}

// TestWhoWeAre tells whom user 0 stands for.
func TestWhoWeAre(t *testing.T) {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || os.Getuid() != 0 && os.Getenv("LAB_TELL_WHO") != "" {
		t.Fatalf("user %d, %v", os.Getuid(), err)
	}
	t.Logf("user 0 is %s", strings.Fields(string(b)))
}

// TestInsideIsIsolated: the tests themselves run in namespaces of their own.
func TestInsideIsIsolated(t *testing.T) {
	inside, status, err := lab.Enter()
	if errors.Is(err, lab.ErrForbidden) {
		t.Skip(err)
	}
	if !inside || status != 0 || err != nil {
		t.Fatal(inside, status, err)
	}
	devices, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil || strings.Count(string(devices), ":") != 1 || !strings.Contains(string(devices), "lo:") {
		t.Errorf("devices, want lo alone:\n%s, %v", devices, err)
	}
}

// TestExitStatusComesThrough also shows that the arguments do.
func TestExitStatusComesThrough(t *testing.T) {
	if os.Getenv("LAB_FAILS") != "" {
		t.Fatal("as it was told to")
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestExitStatusComesThrough$")
	cmd.Env = append(outside(), "LAB_FAILS=1")
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if !errors.As(err, &failed) || failed.ExitCode() != 1 || !strings.Contains(string(out), "as it was told to") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestForbidden: no user namespace is left, and no right to do without.
func TestForbidden(t *testing.T) {
	if os.Getenv("LAB_IS_FORBIDDEN") != "" {
		inside, _, err := lab.Enter()
		t.Log("forbidden:", inside, errors.Is(err, lab.ErrForbidden), err)
		lab.ForTest(t, lab.Options{})
		return
	}
	t.Parallel()
	const script = `echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set -all --inh-caps -all "$0" -test.v '-test.run=^TestForbidden$'`
	cmd := exec.CommandContext(t.Context(), "unshare", "-r", "sh", "-c", script, "/proc/self/exe")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[len(cmd.Args)-1] = exe
	cmd.Env = append(outside(), "LAB_IS_FORBIDDEN=1")
	out, err := cmd.CombinedOutput()
	text := string(out)
	if err != nil || !strings.Contains(text, "forbidden: false true") || !strings.Contains(text, "max_user_namespaces") || !strings.Contains(text, "--- SKIP") {
		t.Errorf("%v\n%s", err, text)
	}
}
