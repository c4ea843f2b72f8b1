package lab_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// traces is what a lab could leave behind, as text: mounts, files in the
// directory for temporary ones, children, and what our descriptors are of.
func traces(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	all := append(strings.Split(string(mounts), "\n"), "children: "+string(children))
	for _, pattern := range []string{"/proc/self/fd/*", os.TempDir() + "/ntpveil-lab-*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if to, err := os.Readlink(name); err == nil {
				name = to
			}
			all = append(all, name)
		}
	}
	return all
}

// without is what of all is not in known.
func without(all, known []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(known, s) })
}

// inhabited lists threads of any process, and descriptors other than ours in
// spaces, that are in or hold one of the namespaces.
func inhabited(t *testing.T, spaces map[string]string) (found []string) {
	t.Helper()
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			to, err := os.Readlink(name)
			if ours, one := spaces[to]; err == nil && one && name != ours {
				found = append(found, name)
			}
		}
	}
	return found
}

// spacesOf holds the namespaces, so that their numbers are not given to others'
// until the test is over: number to the name of our descriptor.
func spacesOf(t *testing.T, l *lab.Lab) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, n := range []*lab.Node{l.Host, l.Router, l.DNS.Node, l.Harvester.Node, l.Server(1).Node, l.Scanner, l.Visitor} {
		fd, err := unix.FcntlInt(uintptr(n.FD()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		name := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
		to, err := os.Readlink(name)
		if err != nil {
			t.Fatal(err)
		}
		all[to] = name
	}
	return all
}

// busy builds a lab and uses everything that could stay behind.
func busy(t *testing.T) *lab.Lab {
	t.Helper()
	l := lab.ForTest(t, lab.Options{Servers: 1, Radvd: true, Chronyd: true})
	if err := l.Host.Serve([]uint16{80}, []uint16{5353}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Scanner.Scan(soon(t), lab.Scan{Target: l.Host.Addr6, TCP: []uint16{80}, Echo: true}); err != nil {
		t.Fatal(err)
	}
	if c, err := l.Visitor.Dial(soon(t), "tcp", "["+l.Host.Addr6.String()+"]:80"); err != nil {
		t.Fatal(err)
	} else {
		defer c.Close()
	}
	if _, err := l.Host.Link.Capture(); err != nil {
		t.Fatal(err)
	}
	if err := l.Host.Command(t.Context(), "sleep", "600").Start(); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestCloseLeavesNothing is not parallel: it counts what the process holds.
func TestCloseLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // others may run labs as well
	first := busy(t)                // once for what Go itself opens and keeps
	first.Close()
	before, routines := traces(t), runtime.NumGoroutine()
	l := busy(t)
	spaces := spacesOf(t, l)
	if len(spaces) != 7 || len(inhabited(t, spaces)) < 7 || len(without(traces(t), before)) < 20 {
		t.Fatalf("the test sees nothing: %v, %v", spaces, traces(t))
	}
	l.Close()
	left := slices.DeleteFunc(without(traces(t), before), func(s string) bool { return spaces[s] != "" })
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	// Threads and goroutines end a moment after what they did: nothing tells when.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := soon(t); ; {
		left, more := inhabited(t, spaces), runtime.NumGoroutine()-routines
		if len(left) == 0 && more <= 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still there: %v, %d goroutines", left, more)
		}
	}
}
