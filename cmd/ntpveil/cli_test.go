package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/control"
)

// cli runs one command line as main does.
func cli(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// configured writes a configuration whose socket is in a directory of the test.
func configured(t *testing.T, more string) (file, socket string) {
	t.Helper()
	dir := t.TempDir()
	file, socket = filepath.Join(dir, "ntpveil.toml"), filepath.Join(dir, "control.sock")
	text := more + "[time]\nservers = [\"ntp.example.net\"]\n[control]\nsocket = \"" + socket + "\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, socket
}

// fixed is a daemon whose status never changes.
type fixed struct {
	status guard.Status
	orders []string
}

func (f *fixed) Look(context.Context) error { return nil }

func (f *fixed) Status(context.Context) (guard.Status, <-chan struct{}, error) {
	return f.status, nil, nil
}

func (f *fixed) OrderRules(_ context.Context, verb, preset string, d time.Duration, from guard.Session) error {
	f.orders = append(f.orders, verb+" "+preset+" "+d.String()+" "+from.ID)
	return nil
}

func (f *fixed) Diff(_ context.Context, preset string) (before, after string, err error) {
	return "before\n", "after " + preset + "\n", nil
}

func (f *fixed) Order(_ context.Context, verb string, d time.Duration) error {
	f.orders = append(f.orders, verb+" "+d.String())
	return nil
}

func serving(t *testing.T, socket string) *fixed {
	t.Helper()
	asked := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	f := &fixed{status: guard.Status{
		Version: "1", Synchronized: true,
		Clock:     guard.ClockStatus{Mode: "observe", Offset: -0.000125, RootDistance: 0.02, Stratum: 3, Leap: "normal", LastSync: &asked},
		Servers:   []guard.ServerStatus{{Address: "2001:db8:101::1", Pool: "p", State: "falseticker", Letter: "x", Reason: "offset +3600 s", Offset: 3600, Stratum: 2, Reach: 0o377, Poll: 64, Verdict: "clean"}},
		Exposures: []guard.ExposureStatus{{Address: "2001:db8:1::a7", Kind: "throw-away", Interface: "eth0", Server: "2001:db8:101::1", AskedAt: &asked, Probes: 9}}, ExposureCount: 1,
		Neighbourhoods: []guard.HoodStatus{{Prefix: "2001:db8:101::/48", Server: "2001:db8:101::1", Until: asked}},
		Shield:         guard.ShieldStatus{State: "disarmed", Table: "inet ntpveil", Preset: "workstation", Reason: "by an admin"},
		Weaknesses:     []guard.Weakness{{Code: "shield-disarmed", Text: "the shield drops nothing"}},
	}}
	server, err := control.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, f) }()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func TestExitStatus(t *testing.T) {
	good, _ := configured(t, "")
	bad, _ := configured(t, "nonsense = 1\n")
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"version", 0, ""},
		{"--version", 0, ""},
		{"check " + good, 0, ""},
		{"check " + bad, 2, bad + ":1:1: unknown key nonsense"},
		{"check /nonexistent/ntpveil.toml", 2, "read configuration: no such file or directory"},
		{"dance", 2, "unknown command"},
		{"help dance", 2, "unknown command"},
		{"help status servers", 2, "unknown command \"status servers\""},
		{"help status", 0, ""},
		{"help rules apply", 0, ""},
		{"completion", 2, "accepts 1 arg"},
		{"completion csh", 2, "invalid argument"},
		{"completion zsh", 0, ""},
		{"check --json --print-effective", 2, "prints TOML"},
		{"--config /nonexistent/ntpveil.toml status", 2, "no such file"},
		{"status --loud", 2, "unknown flag"},
		{"status now", 2, "unknown command"},
		{"query", 2, "requires at least 1 arg"},
		{"query --json [::1]:0", 1, "0 of 1"},
		{"disarm", 2, "--for takes a time"},
		{"disarm --for 48h", 2, "--for takes a time"},
		{"disarm --for 1ns", 2, "--for takes a time from 1s to 24h"},
		{"waitsync --timeout -1s", 2, "--timeout takes a time"},
		{"waitsync --timeout 25h", 2, "--timeout takes a time"},
		{"--config " + good + " status", 3, "the daemon does not run"},
		{"--config " + good + " sync", 3, "`systemctl start ntpveil` starts it"},
		{"--config " + good + " disarm --for 1h", 3, "`ntpveil rules remove` removes what it left"},
		{"--config " + bad + " status", 3, filepath.Dir(bad)}, // its own socket, whatever else is wrong
		{"--config " + bad + " daemon", 2, ":1:1: unknown key"},
	} {
		code, _, stderr := cli(t, strings.Fields(tt.args)...)
		if code != tt.code || tt.says != "0 of 1" && !strings.Contains(stderr, tt.says) {
			t.Errorf("ntpveil %s: exit status %d, %q; want %d, %q", tt.args, code, stderr, tt.code, tt.says)
		}
		if stderr != "" && !strings.HasPrefix(stderr, "ntpveil: ") {
			t.Errorf("ntpveil %s: %q", tt.args, stderr)
		}
	}
}

// TestComplaints: every line of an error says whose it is, a wrong usage names its
// command and the remedy, and nothing that was written steers the terminal.
func TestComplaints(t *testing.T) {
	for want, args := range map[string][]string{
		"ntpveil: read command line: unknown command \"statu\" for \"ntpveil\"; `ntpveil --help` shows how\n":           {"statu"},
		"ntpveil: rules: unknown command \"nosuch\" for \"ntpveil rules\"; `ntpveil rules --help` shows how\n":          {"rules", "nosuch"},
		"ntpveil: rules show: accepts 1 arg(s), received 0; `ntpveil rules show --help` shows how\n":                    {"rules", "show"},
		"ntpveil: sync: unknown flag: --stop; `ntpveil sync --help` shows how\n":                                        {"sync", "--stop"},
		"ntpveil: find preset \\x1b[31m\\u202e\nntpveil: x: there are [companion lockdown observe router server workst": {"rules", "show", "\x1b[31m\u202e\nx"},
	} {
		if code, out, stderr := cli(t, args...); code != 2 || out != "" || !strings.HasPrefix(stderr, want) {
			t.Errorf("ntpveil %q: %d %q %q, want %q", args, code, out, stderr, want)
		}
	}
	if _, _, stderr := cli(t, "query", "\x1b:0"); strings.Contains(stderr, "\x1b") || !strings.Contains(stderr, `ntpveil: query \x1b:0: port`) {
		t.Errorf("%q", stderr)
	}
}

// TestDaemonThatCannotStart: what cannot be opened is an error in words, with
// what was opened before closed again, and no panic.
func TestDaemonThatCannotStart(t *testing.T) {
	notFile := t.TempDir()
	file, _ := configured(t, "ledger.path = \""+notFile+"\"\n")
	code, _, stderr := cli(t, "--config", file, "daemon", "--observe-clock")
	if code != 1 || stderr != "ntpveil: open ledger "+notFile+": it is not a regular file\n" {
		t.Errorf("exit status %d, %q", code, stderr)
	}
}

// TestDaemonThatDoesNotAnswer keeps nobody for ever: neither one that waits for the
// clock, whatever it was told, nor one that looks.
func TestDaemonThatDoesNotAnswer(t *testing.T) {
	file, socket := configured(t, "")
	stuck, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	began := time.Now()
	code, _, stderr := cli(t, "--config", file, "waitsync", "--timeout", "10ms")
	if took := time.Since(began); code != 1 || took > 20*time.Second || !strings.HasPrefix(stderr, "ntpveil: wait for the clock: the daemon does not answer; ") {
		t.Errorf("%d %q after %s", code, stderr, took)
	}
	for verb, most := range map[string]time.Duration{"status": time.Minute, "exposures": time.Minute, "arm": 2 * time.Minute, "diff": 2 * time.Minute, "waitsync": 25 * time.Hour} {
		if d := longest(control.Request{Verb: verb}); d <= 0 || d > most {
			t.Errorf("%s waits for %s", verb, d)
		}
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	for _, c := range rootCmd().Commands() {
		if c.Short == "" || !strings.Contains(c.Example, "ntpveil "+c.Name()) {
			t.Errorf("%s: short %q, example %q", c.Name(), c.Short, c.Example)
		}
	}
}

// TestHelpOfSubcommands is complete, and so is its completion.
func TestHelpOfSubcommands(t *testing.T) {
	if _, out, _ := cli(t, "help", "rules", "apply"); !strings.Contains(out, "ntpveil rules apply PRESET") {
		t.Error(out)
	}
	if _, out, _ := cli(t, "__complete", "help", "rules", ""); !strings.Contains(out, "revert\t") || strings.Contains(out, "watch") {
		t.Error(out)
	}
}

func TestCheckAsJSON(t *testing.T) {
	good, _ := configured(t, "")
	bad, _ := configured(t, "nonsense = 1\nmore = 2\n")
	for file, want := range map[string]int{good: 0, bad: 2} {
		code, out, stderr := cli(t, "check", "--json", file)
		var got struct {
			Valid  bool
			Errors []struct {
				File, Text   string
				Line, Column int
			}
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != want || stderr != "" || got.Valid != (want == 0) || len(got.Errors) != want {
			t.Fatalf("%d %v %s %s", code, err, out, stderr)
		}
		if e := got.Errors; want > 0 && (e[1].File != bad || e[1].Line != 2 || e[1].Column != 1 || e[1].Text != "unknown key more") {
			t.Errorf("%+v", e)
		}
	}
}

func TestPrintEffective(t *testing.T) {
	file, _ := configured(t, "")
	_, first, _ := cli(t, "check", file, "--print-effective")
	again := filepath.Join(t.TempDir(), "again.toml")
	if err := os.WriteFile(again, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, second, stderr := cli(t, "check", again, "--print-effective"); code != 0 || second != first {
		t.Errorf("%d %s\n%s\n%s", code, stderr, first, second)
	}
}

// TestStatusContract holds the keys that scripts rely on.
func TestStatusContract(t *testing.T) {
	file, socket := configured(t, "")
	serving(t, socket)
	code, out, stderr := cli(t, "--config", file, "status", "--json")
	var s map[string]any
	if err := json.Unmarshal([]byte(out), &s); code != 0 || err != nil {
		t.Fatalf("%d %v %s", code, err, stderr)
	}
	for path, keys := range map[string]string{
		"":               "version synchronized clock servers exposures neighbourhoods shield weaknesses exposure_count",
		"clock":          "mode offset_s frequency_ppm root_distance_s stratum leap last_sync next_sync",
		"servers":        "address name pool state letter reason offset_s delay_s stratum reach poll_s nts verdict",
		"exposures":      "address interface kind server asked_at guarded_until exists_until probes",
		"neighbourhoods": "prefix server until dropped",
		"shield":         "state table preset",
		"weaknesses":     "code text",
	} {
		m := s
		switch v := s[path].(type) {
		case map[string]any:
			m = v
		case []any:
			m = v[0].(map[string]any)
		}
		for _, k := range strings.Fields(keys) {
			if _, there := m[k]; !there {
				t.Errorf("%s.%s is missing", path, k)
			}
		}
	}
}

func TestScreens(t *testing.T) {
	file, socket := configured(t, "")
	f := serving(t, socket)
	for args, want := range map[string][]string{
		"status":                 {"Synchronised: yes", "observe, offset -0.000125 s", "disarmed: by an admin", "shield-disarmed: the shield drops nothing"},
		"servers -v":             {"x  falseticker", "x  2001:db8:101::1", "377", "+3600.000000  0.000000", "offset +3600 s"},
		"exposures":              {"2001:db8:1::a7", "throw-away", "2026-11-01 12:00:00 UTC", "9"},
		"disarm --for 1h":        {"nothing for 1h0m0s"},
		"disarm --for 1h --json": {`"state": "disarmed"`, `"table": "inet ntpveil"`},
		"waitsync":               {""},
	} {
		code, out, stderr := cli(t, append([]string{"--config", file}, strings.Fields(args)...)...)
		for _, w := range want {
			if code != 0 || !strings.Contains(out, w) {
				t.Errorf("ntpveil %s: %d %s\n%s\nwant %q", args, code, stderr, out, w)
			}
		}
	}
	if code, _, _ := cli(t, "--config", file, "sync", "--step"); code != 0 {
		t.Errorf("sync --step: %d", code)
	}
	if got := strings.Join(f.orders, ","); !strings.Contains(got, "disarm 1h0m0s") || !strings.Contains(got, "step 0s") {
		t.Errorf("orders %s", got)
	}
}

// TestNothingMeasured: zeros, which would look perfect, are not printed.
func TestNothingMeasured(t *testing.T) {
	file, socket := configured(t, "")
	f := serving(t, socket)
	f.status.Clock.LastSync, f.status.Clock.Stratum, f.status.Servers[0].Stratum = nil, 0, 0
	if _, out, _ := cli(t, "--config", file, "status"); !strings.Contains(out, "not measured yet") || strings.Contains(out, "0.000000") {
		t.Error(out)
	}
}

// TestQueryAsJSON: RFC 3339 in UTC, no figures without an answer, and it says
// what the servers see.
func TestQueryAsJSON(t *testing.T) {
	var out bytes.Buffer
	at := time.Date(2026, 11, 1, 12, 0, 0, 5e8, time.UTC)
	if err := printJSON(&out, answerLine{Server: "a", Answer: &Answer{Time: at, Stratum: 2}}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"time": "2026-11-01T12:00:00.5Z"`) || !strings.Contains(out.String(), `"offset_s": 0`) {
		t.Error(out.String())
	}
	code, text, stderr := cli(t, "query", "--json", "[::1]:0")
	if code != 1 || strings.Contains(text, "offset_s") || !strings.Contains(text, `"failed"`) || !strings.Contains(stderr, "stable address") {
		t.Errorf("%d %s %s", code, text, stderr)
	}
	if code, text, stderr = cli(t, "query", "[::1]:0"); code != 1 || text != "" || !strings.Contains(stderr, "ntpveil: query [::1]:0: port") {
		t.Errorf("%d %q %q", code, text, stderr)
	}
	var both []answerLine // one value, however many are asked
	if _, text, _ = cli(t, "query", "--json", "[::1]:0", "[fe80::1%nosuch]"); json.Unmarshal([]byte(text), &both) != nil || len(both) != 2 || both[1].Address != "fe80::1%nosuch" {
		t.Errorf("%q", text)
	}
	if _, _, stderr = cli(t, "query", "fe80::1%nosuch"); !strings.Contains(stderr, "query fe80::1%nosuch: open socket to [fe80::1%nosuch]:123: connect: ") {
		t.Errorf("%q", stderr)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	var errs bytes.Buffer
	if code := run(stopped, []string{"query", "[::1]:0", "[::1]:0"}, io.Discard, &errs); code != 1 || !strings.HasSuffix(errs.String(), "the servers see it\nntpveil: query [::1]:0: interrupted\n") {
		t.Errorf("%d %q", code, errs.String())
	}
}

// TestQueryWithoutIPv6: a pool names IPv6 first, and a host without asks over IPv4.
func TestQueryWithoutIPv6(t *testing.T) {
	here, nowhere := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fe80::1") // which nothing leads to without a zone
	for want, addrs := range map[netip.Addr][]netip.Addr{here: {nowhere, here}, nowhere: {nowhere}} {
		if got := routed(t.Context(), addrs, 123); got != netip.AddrPortFrom(want, 123) {
			t.Errorf("of %v it is %s", addrs, got)
		}
	}
}
