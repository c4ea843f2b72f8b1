// Package packaging has no code but its tests: of the package, the unit, the man
// pages and the whole of it installed on a real systemd.
package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// need skips where one of the tools is not installed.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: make setup installs it", tool)
		}
	}
}

// needRoot skips where root is not that of the whole machine.
func needRoot(t *testing.T) {
	t.Helper()
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || os.Geteuid() != 0 || strings.Join(strings.Fields(string(users)), " ") != "0 0 4294967295" {
		t.Skip("needs root, and not that of a user namespace: it boots a container")
	}
}

// run runs a command to its end and gives its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// try is run without the judgement: output, and standard error where it failed.
func try(name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String() + errs.String(), err
	}
	return out.String(), nil
}

// process is a program that runs beside the test, and no longer than it.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(p.end)
	return p
}

// end asks it to end, and after 10 s makes it.
func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	<-p.ended
}

var built struct {
	sync.Once
	dir, deb string
	err      error
	log      string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// deb builds the package once for all tests, without a network, and gives its path.
func deb(t *testing.T) string {
	t.Helper()
	need(t, "dpkg-buildpackage", "dh", "scdoc", "go")
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "ntpveil-deb-"); built.err == nil {
			built.deb, built.log, built.err = buildDeb("build-deb", built.dir)
		}
	})
	if built.err != nil {
		t.Fatalf("build the package: %v\n%s", built.err, built.log)
	}
	return built.deb
}

// buildDeb builds the package into dir, the way `make deb` does. The sources are
// those that the script stands in.
func buildDeb(script, dir string) (path, log string, err error) {
	path, err = filepath.Abs(script)
	if err != nil {
		return "", "", err
	}
	cmd := exec.Command(path, dir)
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=readonly", "POOL=", "COMMIT=000000000000")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", string(out), err
	}
	said := strings.TrimSpace(string(out)) // the last line is its path
	return said[strings.LastIndex(said, "\n")+1:], string(out), nil
}

// program is the program as it is in the package.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "dpkg", "-x", deb(t), dir)
	return dir + "/usr/bin/ntpveil"
}
