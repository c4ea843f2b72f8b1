package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// Lists of prefixes are in force, come back when somebody flushes the rules, and are
// replaced at a reload, or with the preset: wholly, or where one has an error not at all.
func TestLists(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	list := h.path("list")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("203.0.113.0/24\n2001:db8:bad::/48\n")
	h.configure(basics + "[shield]\nfiles = [\"" + list + "\"]\n")
	s := h.start()
	blocked := func(what, set, prefix string) {
		t.Helper()
		s.log.await(t, 5*time.Second, with("prefixes of 1 lists are blocked"))
		s.log.clear()
		out, err := h.nft("list", "table", "inet", "ntpveil")
		if err != nil || !strings.Contains(string(out), set) || !strings.Contains(string(out), "{ "+prefix+" }") {
			t.Errorf("%s: %v: %s is not blocked:\n%s", what, err, prefix, out)
		}
		if l := h.status().Shield.Lists; len(l) != 1 || l[0].File != list || !l[0].InForce {
			t.Errorf("%s: status says %+v", what, l)
		}
	}
	reload := func() {
		t.Helper()
		if err := s.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	blocked("started", "blocked6_48_", "2001:db8:bad::")
	out, err := h.program("status").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "2 prefixes of 1 lists\n") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := h.nft("flush", "ruleset"); err != nil {
		t.Fatal(err)
	}
	s.log.await(t, 5*time.Second, with("shield lost"))
	blocked("flushed", "blocked6_48_", "2001:db8:bad::")

	write("203.0.113.0/24\n2001:db8:bad::/32\n")
	reload()
	line := s.log.await(t, 5*time.Second, with("nothing changed"))
	if !strings.Contains(line, list+":2:1: ") {
		t.Errorf("the log does not say where the list is wrong: %s", line)
	}
	if l := h.status().Shield.Lists; len(l) != 1 || !l[0].InForce {
		t.Errorf("a wrong list: status says %+v", l)
	}
	write(`{"type": "cidr", "list": ["198.51.100.7"]}`)
	reload()
	blocked("reloaded", "blocked4_32_", "198.51.100.7")
	write("198.51.100.8\n")
	h.must("apply", "server", "--confirm", "0")
	blocked("another preset was applied after the file had changed", "blocked4_32_", "198.51.100.8")
	s.stop()
}
