package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// procOf is a /proc with processes: "pid parent start audit [environment]", a line each.
func procOf(lines string) fstest.MapFS {
	out := fstest.MapFS{"self": {Data: []byte("no process")}, "4711": {Data: []byte("no directory")}}
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		f := append(strings.Fields(line), "")
		stat := fmt.Sprintf("%s (a ) (b) S %s 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %s 0 0", f[0], f[1], f[2])
		out[f[0]+"/stat"] = &fstest.MapFile{Data: []byte(stat)}
		out[f[0]+"/sessionid"] = &fstest.MapFile{Data: []byte(f[3])}
		env := "TERM=dumb\x00" + strings.ReplaceAll(f[4], "_ ", " ")
		if f[4] != "" {
			env = "TERM=dumb\x00SSH_CONNECTION=" + strings.ReplaceAll(f[4], ",", " ") + "\x00LANG=C"
		}
		out[f[0]+"/environ"] = &fstest.MapFile{Data: []byte(env)}
	}
	return out
}

const none = "4294967295"

func TestSession(t *testing.T) {
	// sshd is 10; each connection has a process of its own, a shell, and sudo, whose
	// child has a terminal and an environment of its own.
	sshd := `
1 0 0 ` + none + `
10 1 500 ` + none + `
20 10 10000 5
21 20 10100 5 198.51.100.7,4000,192.0.2.1,22
22 21 10200 5
23 22 20000 5
30 10 15000 6
31 30 15100 6
40 1 30000 6
41 40 30100 6
`
	service := `
1 0 0 ` + none + `
10 1 500 ` + none + `
11 10 900 ` + none + `
12 11 1000 ` + none + `
`
	tmux := `
1 0 0 ` + none + `
50 1 600 ` + none + ` 198.51.100.7,4000,192.0.2.1,22
51 50 900 ` + none + ` 198.51.100.7,4000,192.0.2.1,22
`
	for name, tt := range map[string]struct {
		proc string
		pid  int
		id   string
		at   time.Duration
		from string
	}{
		"sudo in an ssh session": {sshd, 23, "login 5", 100 * time.Second, "198.51.100.7"},
		"its shell":              {sshd, 21, "login 5", 100 * time.Second, "198.51.100.7"},
		"tmux is as old as the login it came from":    {sshd, 41, "login 6", 150 * time.Second, ""},
		"what a service started":                      {service, 12, "process 11 of 9s", 9 * time.Second, ""},
		"a new window of a tmux, without audit":       {tmux, 51, "process 50 of 6s", 6 * time.Second, "198.51.100.7"},
		"a service itself":                            {service, 10, "", 0, ""},
		"a shell in a container, whose parent is not": {"7 0 400 " + none + "\n8 7 900 " + none, 8, "process 7 of 4s", 4 * time.Second, ""},
		"nobody":   {service, 99, "", 0, ""},
		"a circle": {"7 8 400 " + none + "\n8 7 900 " + none, 8, "process 7 of 4s", 4 * time.Second, ""},
	} {
		s := sessionOf(procOf(tt.proc), tt.pid)
		if s.ID != tt.id || s.Began != tt.at || (tt.from != "") != s.From.IsValid() || tt.from != "" && (s.From.String() != tt.from || s.Port != 22) {
			t.Errorf("%s: %+v, want %s since %s from %q", name, s, tt.id, tt.at, tt.from)
		}
	}
}

func TestDeviceOf(t *testing.T) {
	if d := deviceOf(netip.MustParseAddr("127.0.0.1")); d != "lo" {
		t.Errorf("127.0.0.1 is on %q", d)
	}
	if d := deviceOf(netip.MustParseAddr("192.0.2.99")); d != "" {
		t.Errorf("192.0.2.99 is on %q", d)
	}
}

func FuzzStat(f *testing.F) {
	f.Add("23 (a ) (b) S 22 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9000 0 0")
	f.Add("23 (x) S 22 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 " + strconv.FormatInt(1<<62, 10))
	f.Fuzz(func(t *testing.T, stat string) {
		if p, err := parseStat(stat); err == nil && p.began < 0 {
			t.Errorf("%q began at %s", stat, p.began)
		}
	})
}

func FuzzConnection(f *testing.F) {
	f.Add("198.51.100.7 4000 192.0.2.1 22")
	f.Add("fe80::1%eth0 4000 fe80::2%eth0 22")
	f.Fuzz(func(t *testing.T, text string) {
		if from, to := parseConnection(text); from.IsValid() != to.IsValid() {
			t.Errorf("%q: from %s to %s", text, from, to)
		}
	})
}
