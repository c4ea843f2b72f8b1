package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ntpveil/guard/config"
	"ntpveil/guard/ipaddr"
	"ntpveil/guard/lab"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

func TestRulesCommands(t *testing.T) {
	file, _ := configured(t, "")
	mine := filepath.Join(filepath.Dir(file), "presets", "mine.toml")
	if err := os.MkdirAll(filepath.Dir(mine), 0o755); err != nil {
		t.Fatal(err)
	}
	set := func(text string) {
		t.Helper()
		if err := os.WriteFile(mine, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set("extends = \"server\"\nabout = \"ours\"\n[closed]\nallow = [\"tcp/8000-8010\"]")
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"rules list", 0, "mine         " + mine},
		{"rules show mine", 0, "allow = [\"tcp/8000-8010\"]\nlistening = true"},
		{"rules render mine", 0, "tcp dport 8000-8010 accept"},
		{"rules render mine --replace", 0, "table inet ntpveil\ndelete table inet ntpveil\ntable inet ntpveil {\n"},
		{"rules render mine --renew", 0, "flush table inet ntpveil\nflush set inet ntpveil trusted6\n"},
		{"rules render mine --renew --replace", 2, "exclude one another"},
		{"rules show none", 2, "find preset none: there are [companion lockdown mine observe"},
		{"rules show", 2, "accepts 1 arg(s)"},
		{"rules apple", 2, "unknown command"},
		{"rules", 0, "Available Commands"},
		{"__complete rules apply l", 0, "lockdown\n"},
		{"__complete rules diff mi", 0, "mine\n"},
	} {
		code, out, stderr := cli(t, append([]string{"--config", file}, strings.Fields(tt.args)...)...)
		if code != tt.code || !strings.Contains(out+stderr, tt.says) {
			t.Errorf("ntpveil %s: exit status %d, want %d with %q\n%s%s", tt.args, code, tt.code, tt.says, out, stderr)
		}
	}
	for args, key := range map[string]string{"rules list --json": "origin", "rules show mine --json": "keys", "rules render mine --json": "nft"} {
		_, out, _ := cli(t, append([]string{"--config", file}, strings.Fields(args)...)...)
		if !json.Valid([]byte(out)) || !strings.Contains(out, `"`+key+`": `) {
			t.Errorf("ntpveil %s: %s", args, out)
		}
	}
	set("extends = \"server\"\n[closed]\nports = 1\n")
	for _, args := range []string{"rules list", "rules show server", "rules render server", "check " + file} {
		if code, _, stderr := cli(t, append([]string{"--config", file}, strings.Fields(args)...)...); code != 2 || stderr != "ntpveil: "+mine+":3:1: unknown key closed.ports\n" {
			t.Errorf("ntpveil %s with a preset that is wrong: %d %s", args, code, stderr)
		}
	}
}

func TestEveryRulesCommandHasAnExample(t *testing.T) {
	for _, c := range rulesCmd(&options{}).Commands() {
		if c.Short == "" || !strings.Contains(c.Example, "ntpveil rules "+c.Name()) {
			t.Errorf("%s: short %q, example %q", c.Name(), c.Short, c.Example)
		}
	}
}

// TestCompanionUnit runs what the unit runs: it starts, starts again, reloads after
// a flush and with something learnt, which stays, and stops.
func TestCompanionUnit(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	unit, err := os.ReadFile("../../systemd/ntpveil-companion.service")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.ReplaceAll(strings.ReplaceAll(string(unit), "\\\n", ""), "$$", "$")
	does := func(verb string) {
		t.Helper()
		_, line, found := strings.Cut(lines, "\nExec"+verb+"=")
		line, _, _ = strings.Cut(line, "\n")
		line = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(line, "-"), "/bin/sh -c '"), "'")
		cmd := l.Host.Command(t.Context(), "/bin/sh", "-c", strings.ReplaceAll(line, "/usr/bin/ntpveil", self+" --config "+nothing(t)))
		cmd.Env = append(os.Environ(), asProgram+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !found {
			t.Fatalf("%s: %q: %v\n%s", verb, line, err, out)
		}
	}
	nft := func(args ...string) string {
		t.Helper()
		out, err := l.Host.Command(t.Context(), "nft", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("nft %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	list := func() string { return counted.ReplaceAllString(nft("list", "ruleset"), "") }
	does("Start")
	first := list()
	if !strings.Contains(first, "meta skuid 0 goto learn6") || !strings.Contains(first, "2001:db8:1::/48") {
		t.Fatalf("started:\n%s", first)
	}
	does("Start")
	nft("add", "element", "inet", "ntpveil", "learnt6", "{ 2001:db8:2016:: timeout 1h }")
	does("Reload")
	if text := list(); !strings.Contains(text, "2001:db8:2016:: timeout 1h") || strings.Count(text, "\n") != strings.Count(first, "\n")+1 {
		t.Errorf("reloaded:\n%s", text)
	}
	nft("flush", "ruleset")
	does("Reload")
	if text := list(); text != first {
		t.Errorf("reloaded after a flush:\n%s", text)
	}
	nft("flush", "ruleset")
	nft("add", "table", "inet", "ntpveil")
	nft("add", "set", "inet", "ntpveil", "learnt6", "{ type ipv4_addr; }")
	does("Reload")
	if text := list(); text != first {
		t.Errorf("reloaded over another version's table:\n%s", text)
	}
	owned(t, l.Host)
	does("StartPre")
	does("Start")
	if text := list(); text != first {
		t.Errorf("started behind a daemon that owned the table:\n%s", text)
	}
	does("StopPost")
	if text := list(); strings.TrimSpace(text) != "" {
		t.Errorf("stopped:\n%s", text)
	}
}

// owned leaves what a daemon with shield.owner does, which nft cannot change.
func owned(t *testing.T, on *lab.Node) {
	t.Helper()
	table, err := nft.Open(on.FD())
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if err := table.Grow(sysclock.Mono(), rules.Shield{Mode: rules.Enforce, Owner: true, Preset: "workstation"}); err != nil {
		t.Fatal(err)
	}
}

// nothing is a configuration that says nothing: this machine's own may say something.
func nothing(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ntpveil.toml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var counted = regexp.MustCompile(`(packets|bytes) \d+`)

// TestRenderedIsWhatIsPutUp: on a host, what rules render prints is accepted by nft,
// and lists as what the daemon's adapter puts up for the same preset.
func TestRenderedIsWhatIsPutUp(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	host := l.Host
	feed := func(stdin string, args ...string) string {
		t.Helper()
		cmd := host.Command(t.Context(), "nft", args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("nft %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	list := func() string { return counted.ReplaceAllString(feed("", "list", "table", "inet", "ntpveil"), "") }
	none := nothing(t)
	all, err := config.Presets(none)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := ipaddr.Look(ipaddr.Options{NS: host.FD()}, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range all {
		var out, stderr bytes.Buffer
		err := host.Do(func() error {
			if run(t.Context(), []string{"--config", none, "rules", "render", name, "--replace"}, &out, &stderr) != 0 {
				return errors.New(stderr.String())
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		feed(out.String(), "-c", "-f", "-")
		feed(out.String(), "-f", "-")
		rendered := list()
		feed(out.String(), "-f", "-")
		if again := list(); again != rendered {
			t.Errorf("%s loaded twice is another table:\n%s", name, again)
		}
		feed("", "delete", "table", "inet", "ntpveil")

		s := p.Shield(rules.Facts{Outside: []string{"eth0"}, Users: users(p.Users), Own: p.Choices.Own(facts.OwnPrefixes())})
		s.Devices = facts.Devices
		table, err := nft.Open(host.FD())
		if err != nil {
			t.Fatal(err)
		}
		if err := table.Grow(sysclock.Mono(), s); err != nil {
			t.Fatal(err)
		}
		if put := list(); put != rendered {
			t.Errorf("%s: rendered\n%s\nput up\n%s", name, rendered, put)
		}
		_ = table.Close()
		feed("", "delete", "table", "inet", "ntpveil")
		if !slices.Contains(facts.Devices, "eth0") || p.Choices.Hooks == rules.AtBoth && !strings.Contains(rendered, `iifname "eth0" goto arriving`) {
			t.Errorf("%s: eth0 does not lead outside:\n%s", name, rendered)
		}
	}
}
