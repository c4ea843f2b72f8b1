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

// traces is what a lab could leave behind, as text.
func traces(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(string(mounts), "\n")
	for _, pattern := range []string{"/run/netns/*", "/var/run/netns/*", os.TempDir() + "/ntpveil-lab-*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, names...)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return append(all, fmt.Sprintf("%d descriptors", len(fds)), "children: "+string(children))
}

// inhabited lists threads of any process, and our descriptors, that are in or
// hold one of the namespaces.
func inhabited(t *testing.T, spaces map[string]bool) (found []string) {
	t.Helper()
	for _, pattern := range []string{"/proc/[0-9]*/task/*/ns/net", "/proc/[0-9]*/fd/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if to, err := os.Readlink(name); err == nil && spaces[to] {
				found = append(found, name)
			}
		}
	}
	return found
}

func spacesOf(t *testing.T, l *lab.Lab) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, n := range []*lab.Node{l.Host, l.Router, l.DNS.Node, l.Harvester.Node, l.Server(1).Node, l.Scanner, l.Visitor} {
		var st unix.Stat_t
		if err := unix.Fstat(n.FD(), &st); err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprintf("net:[%d]", st.Ino)] = true
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
	first := busy(t) // once for what Go itself opens and keeps
	first.Close()
	before, routines := traces(t), runtime.NumGoroutine()
	l := busy(t)
	spaces := spacesOf(t, l)
	if len(spaces) != 7 || len(inhabited(t, spaces)) < 7 || slices.Equal(traces(t), before) {
		t.Fatalf("the test sees nothing: %v, %v", spaces, traces(t))
	}
	l.Close()
	if after := traces(t); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
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
