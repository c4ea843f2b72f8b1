package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/lab"
)

// Two daemons would take each other's table and addresses for somebody's tampering.
// So a second one with a ledger and a socket of its own, which meets no lock, ends
// before it touches anything, and the first does not notice.
func TestSecondDaemon(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	h.hurry()
	first := h.start()
	h.synced(10 * time.Second)
	second := *h
	var err error
	if second.dir, err = os.MkdirTemp("", "ntpveil-test-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(second.dir) })
	second.configure(basics)
	c := second.program("daemon", "--observe-clock")
	late := time.AfterFunc(5*time.Second, func() { _ = c.Process.Kill() })
	defer late.Stop()
	out, err := c.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another ntpveil runs in this network") {
		t.Errorf("the second daemon: %v\n%s", err, out)
	}
	if text := first.log.String(); strings.Contains(text, "lost") {
		t.Errorf("the first one said:\n%s", text)
	}
	if left, err := os.ReadDir(second.dir); err != nil || len(left) != 1 {
		t.Errorf("the second daemon left %v, %v", left, err)
	}
	second.refused(1, "but not on the control.socket of", "apply", "server")
	first.stop()
}
