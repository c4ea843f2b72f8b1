package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
	"ntpveil/rules/strict"
)

const some = "[time]\nservers = [\"ntp.example.net\"]\n"

func parse(t *testing.T, text string) guard.Config {
	t.Helper()
	c, err := Parse([]File{{Name: "a.toml", Text: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := parse(t, some)
	want := defaults().Config
	want.Servers, want.MinAgree = []guard.Server{{Host: "ntp.example.net", Port: 123}}, 1
	want.Shield, want.Allow, want.Hold, want.LogGroup = rules.Enforce, []rules.Service{{Proto: "tcp", Port: 22}}, 15*time.Minute, 5
	want.Choices, want.Plain = workstation(t).Choices, workstation(t)
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func workstation(t *testing.T) rules.Preset {
	t.Helper()
	all, errs := rules.ReadPresets(nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return all[rules.DefaultPreset]
}

// TestPresetGivesWhatShieldDoesNot: a key of [shield] wins over the preset's.
func TestPresetGivesWhatShieldDoesNot(t *testing.T) {
	own := File{Name: "presets/mine.toml", Text: []byte("[neighbourhood]\nhold = \"7m\"\nipv6 = 56\n[closed]\naction = \"count\"\nallow = [\"tcp/80\"]\ntrusted = [\"2001:db8::/32\"]\noutside = [\"ppp0\"]\n" +
		"[log]\ngroup = 9\n[table]\nowner = true")}
	c, err := Parse([]File{{Name: "a.toml", Text: []byte(some + "[shield]\npreset = \"mine\"")}}, own)
	if err != nil || c.Shield != rules.Observe || c.Hold != 7*time.Minute || c.Allow[0].Port != 80 || len(c.Trusted) != 1 || c.LogGroup != 9 || !c.Owner ||
		c.Choices.Hood6 != 56 || c.Outside[0] != "ppp0" {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = Parse([]File{{Name: "a.toml", Text: []byte(some + "[shield]\npreset = \"mine\"\nmode = \"enforce\"\nhold = \"1m\"\nallow = []\ntrusted = []\nowner = false\nlog_group = 1")}}, own)
	if err != nil || c.Shield != rules.Enforce || c.Hold != time.Minute || len(c.Allow)+len(c.Trusted) > 0 || c.LogGroup != 1 || c.Owner || c.Choices.Hood6 != 56 ||
		c.Written != (guard.Written{Mode: true, Hold: true, Allow: true, Trusted: true, Owner: true, LogGroup: true}) || c.Plain.Hold != 7*time.Minute || !c.Plain.Owner {
		t.Errorf("%+v, %v", c, err)
	}
	bad := File{Name: "presets/bad.toml", Text: []byte("extends = \"none\"")}
	if _, err := Parse([]File{{Name: "a.toml", Text: []byte(some)}}, bad); err == nil || err.Error() != `presets/bad.toml:1:1: extends: there is no preset "none"` {
		t.Errorf("%v", err)
	}
}

// TestPresetsBesideTheConfiguration are read; one takes the place of a built-in one.
func TestPresetsBesideTheConfiguration(t *testing.T) {
	main := filepath.Join(t.TempDir(), "ntpveil.toml")
	write(t, main, some)
	mine := filepath.Join(filepath.Dir(main), "presets", "workstation.toml")
	write(t, mine, "[neighbourhood]\nhold = \"9m\"")
	all, err := Presets(main)
	if err != nil || all["workstation"].Hold != 9*time.Minute || all["workstation"].Origin != mine || all["server"].Hold != 9*time.Minute {
		t.Errorf("%+v, %v", all["workstation"], err)
	}
	if c, err := Load(main, true); err != nil || c.Hold != 9*time.Minute {
		t.Errorf("%v, %v", c.Hold, err)
	}
	write(t, mine, "hold = 9")
	if _, err := Load(main, true); err == nil || err.Error() != mine+":1:1: unknown key hold" {
		t.Errorf("%v", err)
	}
}

func TestEveryKey(t *testing.T) {
	c := parse(t, `
[time]
servers = ["a.example", "b.example:1123", "[2001:db8::1]:124", "2001:db8::2", "192.0.2.1"]
nts = ["nts.example", "[2001:db8::3]:4461"]
dhcp = "off"
use = 3
min_agree = 2
poll = { min = "32s", max = "1h" }
allow_private = true
[clock]
mode = "observe"
step = { threshold = "1s", when = "never" }
max_change.forward = "10s"
max_change.backward = "0s"
[address]
rotate = "server"
interface = "wlan0"
keep = "10m"
max = 6
control = 0
[shield]
mode = "observe"
preset = "workstation"
trusted = ["2001:db8:5::/48", "192.0.2.9"]
allow = ["tcp/443", "udp/53"]
hold = "1m"
owner = true
files = []
log_group = 0x10
if_impossible = "ask-stable"
[ledger]
path = "/tmp/l.db"
[control]
socket = "/tmp/c.sock"
[metrics]
listen = ""
`)
	if c.Servers[1].Port != 1123 || c.Servers[2] != (guard.Server{Host: "2001:db8::1", Port: 124}) || c.Servers[3].Host != "2001:db8::2" || c.MinAgree != 2 ||
		c.PollMin != 32*time.Second || !c.AllowPrivate || !c.Observe || c.StepWhen != "never" || c.MaxForward != 10*time.Second || c.MaxBackward != 0 ||
		c.Rotate != "server" || c.Interface != "wlan0" || c.MaxAddrs != 6 || c.Control != 0 || c.Shield != rules.Observe || len(c.Trusted) != 2 ||
		c.Allow[1] != (rules.Service{Proto: "udp", Port: 53}) || !c.Owner || c.LogGroup != 16 || c.IfImpossible != "ask-stable" || c.Ledger != "/tmp/l.db" ||
		c.NTS[0] != (guard.Server{Host: "nts.example", Port: 4460}) || c.NTS[1] != (guard.Server{Host: "2001:db8::3", Port: 4461}) {
		t.Errorf("%+v", c)
	}
}

// TestNTSAlone: no pool is asked beside hosts of time.nts unless one is written,
// and min_agree goes by what is to be had.
func TestNTSAlone(t *testing.T) {
	old := DefaultPool
	defer func() { DefaultPool = old }()
	DefaultPool = "2.default.example"
	for text, want := range map[string]guard.Config{
		"nts = [\"a.example\", \"b.example\"]":                                           {MinAgree: 2},
		"nts = [\"a.example\"]\nservers = [\"b.example\", \"c.example\", \"d.example\"]": {MinAgree: 3},
		"nts = [\"a.example\"]\npools = [\"2.pool.example\"]":                            {MinAgree: 3, Pools: []string{"2.pool.example"}},
		"nts = [\"a.example\"]\npools = [\"2.pool.example\"]\nservers = [\"b.example\"]": {MinAgree: 2},
		"nts = []": {MinAgree: 3, Pools: []string{"2.default.example"}},
	} {
		if c := parse(t, "[time]\n"+text); c.MinAgree != want.MinAgree || !slices.Equal(c.Pools, want.Pools) {
			t.Errorf("%s: min_agree %d, pools %q", text, c.MinAgree, c.Pools)
		}
	}
}

// TestErrors pins what an admin reads.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[time]\nuse = 4\nfoo = 1\nmin_agree = 17\n[clok]\nmode = 1\n": "a.toml:3:1: unknown key time.foo\na.toml:4:1: time.min_agree: 17 is not from 1 to 16\na.toml:5:2: unknown table [clok]",
		some + "use = \n":                                      "a.toml:3:7: ",
		some + "use = \"four\"":                                "a.toml:3:1: time.use: a whole number is wanted",
		some + "poll = { min = \"2h\", max = \"1h\" }":         "a.toml:3:10: time.poll.min: 2h0m0s is above time.poll.max, 1h0m0s",
		some + "poll = \"64s\"":                                "a.toml:3:1: time.poll: a table is wanted",
		some + "[clock]\nstep.when = \"sometimes\"":            `a.toml:4:1: clock.step.when: "sometimes" is none of ["start", "always", "never"]`,
		some + "[clock]\nstep.threshold = 5":                   `a.toml:4:1: clock.step.threshold: a time such as "64s" is wanted`,
		some + "[shield]\nallow = [\"tcp/70000\"]":             `a.toml:4:10: shield.allow: "tcp/70000" is no service such as tcp/22, udp/8000-8010 or tcp/443@eth0`,
		some + "[shield]\nallow = [22]":                        "a.toml:4:1: shield.allow: a list of strings is wanted",
		some + "[shield]\ntrusted = [\"2001:db8::1/48\"]":      `a.toml:4:12: shield.trusted: "2001:db8::1/48" has bits beyond its length: 2001:db8::/48 is meant?`,
		some + "[shield]\npreset = \"firewall\"":               `a.toml:4:1: shield.preset: "firewall" is none of ["companion", "lockdown", "observe", "router", "server", "workstation"]`,
		some + "[shield]\npreset = \"companion\"":              `a.toml:4:1: shield.preset: "companion" is for hosts without this daemon: ntpveil-companion.service loads it`,
		some + "nts = [\"nts.example\", \"nts.example:4460\"]": `a.toml:3:23: time.nts: "nts.example:4460" stands twice`,
		some + "nts = [\"nts.example:0\"]":                     `a.toml:3:8: time.nts: "nts.example:0": the port is not from 1 to 65535`,
		"[time]\nnts = [\"a.example\"]\nmin_agree = 2":         "a.toml:3:1: time.min_agree: 2 can never be met, 1 servers are to be had",
		some + "[address]\ninterface = 'a\\b'":                 `a.toml:4:1: address.interface: "a\\b" is no name of an interface`,
		some + "[metrics]\nlisten = \"127.0.0.1:9975\"":        `a.toml:4:1: metrics.listen: this version has no metrics: leave it at ""`,
		some + "[ledger]\npath = \"/dev/null\"":                `a.toml:4:1: ledger.path: "/dev/null" is below /dev, where no file of ours belongs`,
		some + "[ledger]\npath = \"ledger.db\"":                `a.toml:4:1: ledger.path: "ledger.db" is no absolute path`,
		some + "min_agree = 2":                                 "a.toml:3:1: time.min_agree: 2 can never be met, 1 servers are to be had",
		"[time]\npools = [\"a.example\"]\nuse = 2":             "a.toml:3:1: time.use: 2 servers can never be the 3 that have to agree; time.min_agree = 2 permits fewer",
		some + "use = 1\nuse = 2":                              "a.toml:4:1: time.use stands twice",
		some + "[[clock]]":                                     "a.toml:3:3: clock: a list of tables has no meaning here",
		some + "[address]\n[address]":                          "a.toml:4:2: [address] stands twice",
		"[time]\nservers = [\"no such name\"]":                 `a.toml:2:12: time.servers: "no such name" is no server such as ntp.example.net, ntp.example.net:123 or [2001:db8::1]:123`,
		"[time]\npools = [\"a.example\"]\npoll.min = \"16s\"":  "a.toml:3:1: time.poll.min: 16s is below 1m4s, which a pool's servers are owed",
		"": `a.toml:1:1: no server is configured, and this build has no default pool: write servers = ["ntp.example.net"], or pools = ["2.VENDOR.pool.ntp.org"] of a vendor zone that is yours, under [time]`,
		// Every error at once: of each item, and what no key can say alone.
		"[time]\nservers = [\"a.b\", \"no such\",\n  \"::\"]\nuse = 99\n[address]\ncontrol = 3\nmax = 2": "a.toml:2:19: time.servers: \"no such\" is no server such as ntp.example.net, ntp.example.net:123 or [2001:db8::1]:123\na.toml:3:3: time.servers: \"::\" cannot be a server\na.toml:4:1: time.use: 99 is not from 1 to 16\na.toml:6:1: address.control: 3 is above address.max, 2",
		some + "[ledger]\npath = \"/var/lib/ntpveil/\"":                                                  `a.toml:4:1: ledger.path: "/var/lib/ntpveil/" is a directory, and a file is wanted`,
		some + "[control]\nsocket = \"/a\"\n[ledger]\npath = \"/a\"":                                     `a.toml:4:1: control.socket: "/a" is ledger.path, too`,
		"[time]\nservers = [\"a.example\", \"A.example.\"]":                                              `a.toml:2:25: time.servers: "A.example." stands twice`,
		"[time]\npools = [\"192.0.2.1\"]":                                                                `a.toml:2:10: time.pools: "192.0.2.1" is an address, which is one server: it belongs under time.servers`,
		// An empty table is no value, and silent where a table may stand.
		some + "[shield]\nallow = {}\nfoo = {}\n[clock]\nstep = {}": "a.toml:4:1: shield.allow: a list of strings is wanted\na.toml:5:1: unknown key shield.foo",
		// TOML, and nothing that only looks like it.
		"\"time.use\" = 4\n" + some: `a.toml:1:1: unknown key "time.use"`,
		some + "use = 4_":           "a.toml:3:8: number cannot end with underscore",
		some + "poll = { min = \"64s\" }\n[time.poll]\nmax = \"1h\"": "a.toml:4:2: key poll should be a table, not a value",
		"\x00":                 "a.toml:1:1: there is a NUL byte in it",
		some + "a = \"ü\xff\"": "a.toml:3:7: it is not UTF-8",
	} {
		_, err := Parse([]File{{Name: "a.toml", Text: []byte(text)}})
		if err == nil || err.Error() != want && !(strings.HasSuffix(want, ": ") && strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%q:\n%v\nwant\n%s", text, err, want)
		}
	}
}

// TestListsAreBounded: a list that the kernel would not take is told by its key.
func TestListsAreBounded(t *testing.T) {
	for key, item := range map[string]func(i int) string{
		"shield.allow":   func(i int) string { return fmt.Sprintf("tcp/%d", 2*i+1) },
		"shield.trusted": func(i int) string { return fmt.Sprintf("10.%d.%d.0/24", i/256, i%256) },
	} {
		table, name, _ := strings.Cut(key, ".")
		var items []string
		for i := range 1001 {
			items = append(items, item(i))
		}
		text := func(n int) string {
			return "time.pools = [\"a.example\"]\n[" + table + "]\n" + name + " = " + strict.QuoteList(items[:n])
		}
		if _, err := Parse([]File{{Name: "a.toml", Text: []byte(text(1000))}}); err != nil {
			t.Errorf("%s of 1000: %v", key, err)
		}
		_, err := Parse([]File{{Name: "a.toml", Text: []byte(text(1001))}})
		if want := "a.toml:3:1: " + key + ": 1001 entries, at most 1000 are taken"; err == nil || err.Error() != want {
			t.Errorf("%v\nwant\n%s", err, want)
		}
	}
}

// TestNetworkAlone: without a pool and a server, on purpose, those that the
// network names are all that there is.
func TestNetworkAlone(t *testing.T) {
	if c := parse(t, "[time]\npools = []\ndhcp = \"join\"\n"); len(c.Pools)+len(c.Servers) != 0 || c.DHCP != "join" || c.MinAgree != 3 {
		t.Errorf("%+v", c)
	}
	for _, text := range []string{"[time]\npools = []\ndhcp = \"off\"\n", "[time]\npools = []\n", "[time]\ndhcp = \"join\"\n"} {
		if _, err := Parse([]File{{Name: "a.toml", Text: []byte(text)}}); err == nil || !strings.Contains(err.Error(), "no server is configured") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestDefaultPoolThatDoesNotHold: what is said of the default pool is true.
func TestDefaultPoolThatDoesNotHold(t *testing.T) {
	defer func(p string) { DefaultPool = p }(DefaultPool)
	DefaultPool = "2.vendor.pool.example"
	_, err := Parse([]File{{Name: "a.toml", Text: []byte("[time]\npools = []")}})
	if err == nil || !strings.HasPrefix(err.Error(), "a.toml:2:1: no server is configured, and time.pools is written, so that the default pool 2.vendor.pool.example does not hold") {
		t.Error(err)
	}
}

// TestSocketOfABrokenConfiguration: a daemon that runs can be reached while its
// files are being mended.
func TestSocketOfABrokenConfiguration(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "ntpveil.toml")
	write(t, main, "foo = 1\n[control]\nsocket = \"/run/other.sock\"\n")
	for _, text := range []string{"", "[time]\nuse = four\n", "[control]\nsocket = 3\n"} {
		write(t, filepath.Join(dir, "conf.d", "a.toml"), text)
		if s, err := Socket(main, true); s != "/run/other.sock" || err != nil {
			t.Errorf("%q: %q, %v", text, s, err)
		}
	}
	if s, err := Socket(filepath.Join(dir, "sub", "none.toml"), false); s != defaults().Socket || err != nil {
		t.Errorf("no file: %q, %v", s, err)
	}
	if _, err := Socket(filepath.Join(dir, "none.toml"), true); err == nil {
		t.Error("a named file that is not there is no error")
	}
}

// TestOverWithoutADaemon: [shield] wins over a preset, whatever is wrong elsewhere.
func TestOverWithoutADaemon(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "ntpveil.toml")
	p := workstation(t)
	write(t, main, "[time]\nuse = 0\n[shield]\nallow = [\"tcp/8443\"]\nmode = \"observe\"\npreset = \"none\"\n")
	write(t, filepath.Join(dir, "conf.d", "a.toml"), "[shield]\ntrusted = [\"2001:db8::/32\"]\nmode = \"off\"\n")
	got, err := Over(main, true, p)
	if err != nil || len(got.Allow) != 1 || got.Allow[0].Port != 8443 || len(got.Trusted) != 1 || got.Mode != rules.Off || got.Hold != p.Hold || got.Name != p.Name {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Over(filepath.Join(dir, "sub", "none.toml"), false, p); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("no file: %+v, %v", got, err)
	}
	write(t, main, "[shield]\nallow = [\"tcp/0\"]\nhold = 3\n")
	if _, err := Over(main, true, p); err == nil || strings.Count(err.Error(), main+":") != 2 {
		t.Errorf("%v", err)
	}
}

func TestEffectiveIsTheSame(t *testing.T) {
	for _, text := range []string{some, "[time]\npools = []\ndhcp = \"join\"\n", "[time]\npools = [\"2.x.example\"]\ndhcp = \"off\"\nuse = 2\nmin_agree = 2\n[shield]\nmode = \"off\"\ntrusted = [\"::/0\"]\n[address]\ninterface = \"eth0\""} {
		c := parse(t, text)
		again := parse(t, Effective(c))
		if Effective(again) != Effective(c) || again.MinAgree != c.MinAgree {
			t.Errorf("%s\nbecame\n%s", Effective(c), Effective(again))
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConfD(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "[x")
	main := filepath.Join(dir, "ntpveil.toml")
	write(t, main, some+"use = 2\n")
	write(t, filepath.Join(dir, "conf.d", "20-b.toml"), "[time]\nservers = [\"b.example\"]\n")
	write(t, filepath.Join(dir, "conf.d", "10-a.toml"), "[time]\nservers = [\"a.example\"]\n[shield]\nhold = \"1m\"\n")
	write(t, filepath.Join(dir, "conf.d", "ignored.conf"), "nonsense")
	c, err := Load(main, true)
	if err != nil || c.Servers[0].Host != "b.example" || c.Hold != time.Minute || c.Use != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	write(t, filepath.Join(dir, "conf.d", ".#20-b.toml"), "nonsense")
	if _, err := Load(main, true); err != nil {
		t.Errorf("a hidden file: %v", err)
	}
	write(t, filepath.Join(dir, "conf.d", "30-c.toml"), "[shield]\nhold = 1\n")
	var bad Errors
	if _, err = Load(main, true); !errors.As(err, &bad) || len(bad) != 1 || !strings.HasSuffix(bad[0].File, "30-c.toml") || bad[0].Line != 2 {
		t.Errorf("%v", err)
	}
}

// TestConfDThatCannotBeRead: it is an error, not an empty one.
func TestConfDThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "ntpveil.toml")
	write(t, main, some)
	write(t, filepath.Join(dir, "conf.d"), "a file")
	var bad Errors
	if _, err := Load(main, true); !errors.As(err, &bad) || bad[0].File != filepath.Join(dir, "conf.d") {
		t.Errorf("%v", err)
	}
}

// TestPipes hang nobody, wherever they stand.
func TestPipes(t *testing.T) {
	for _, where := range []string{"ntpveil.toml", "conf.d/a.toml", "presets/a.toml", "list"} {
		main := filepath.Join(t.TempDir(), "ntpveil.toml")
		pipe := filepath.Join(filepath.Dir(main), where)
		write(t, main, some+"[shield]\nfiles = ["+strict.Quote(filepath.Join(filepath.Dir(main), "list"))+"]")
		write(t, filepath.Join(filepath.Dir(main), "list"), "")
		write(t, pipe, "")
		if err := errors.Join(os.Remove(pipe), syscall.Mkfifo(pipe, 0o600)); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := Load(main, true)
			done <- err
		}()
		select {
		case err := <-done:
			var bad Errors
			if !errors.As(err, &bad) || !strings.Contains(bad[0].Error(), pipe+": ") || !strings.HasSuffix(bad[0].Text, ": not a regular file") {
				t.Errorf("%s: %v", where, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it hangs", where)
		}
	}
}

func TestFilesThatAreNotThere(t *testing.T) {
	defer func(p string) { DefaultPool = p }(DefaultPool)
	DefaultPool = "2.vendor.pool.example"
	missing := filepath.Join(t.TempDir(), "ntpveil.toml")
	if c, err := Load(missing, false); err != nil || len(c.Pools) != 1 || c.Pools[0] != DefaultPool || c.MinAgree != 3 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, path := range []string{missing, t.TempDir(), "/dev/null"} {
		var bad Errors
		if _, err := Load(path, true); !errors.As(err, &bad) || bad[0].File != path {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestSample: the sample shows every key, at its default.
func TestSample(t *testing.T) {
	b, err := os.ReadFile("../../packaging/ntpveil.toml")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range strings.Split(string(b), "\n") {
		if s := strings.TrimPrefix(l, "#"); s != l && !strings.HasPrefix(s, " ") {
			l = s
		}
		lines = append(lines, l)
	}
	text := strings.Join(lines, "\n")
	entries, errs := strict.Read(File{Name: "sample", Text: []byte(text)}, isTable)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	shown := map[string]bool{}
	for _, e := range entries {
		shown[e.Key] = true
	}
	for _, k := range keys {
		if !shown[k.name] {
			t.Errorf("%s is not in the sample", k.name)
		}
	}
	const three = `servers = ["a.example", "b.example", "c.example"]`
	c := parse(t, strings.Replace(text, "servers = []", three, 1))
	want := parse(t, "[time]\n"+three)
	if Effective(c) != Effective(want) {
		t.Errorf("the sample says\n%s\nthe defaults are\n%s", Effective(c), Effective(want))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(some))
	f.Add([]byte("[time]\npools=[\"a.b\"]\npoll={min=\"64s\"}\n[shield]\nallow=[\"tcp/1\"]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse([]File{{Name: "f", Text: text}})
		var bad Errors
		if err != nil {
			if !errors.As(err, &bad) || len(bad) == 0 {
				t.Fatalf("%T %v", err, err)
			}
			for _, e := range bad {
				if e.Line > strings.Count(string(text), "\n")+1 {
					t.Errorf("%v is outside the file", e)
				}
			}
			return
		}
		again, err := Parse([]File{{Name: "again", Text: []byte(Effective(c))}})
		if err != nil || Effective(again) != Effective(c) {
			t.Errorf("%s\n%v", Effective(c), err)
		}
	})
}

// TestLists: they are read with the configuration, and an error in one is told with
// its place, beside those of the configuration.
func TestLists(t *testing.T) {
	main := filepath.Join(t.TempDir(), "ntpveil.toml")
	one, two := filepath.Join(filepath.Dir(main), "one"), filepath.Join(filepath.Dir(main), "two")
	write(t, main, some+"[shield]\nfiles = ["+strict.Quote(one)+", "+strict.Quote(two)+"]")
	write(t, one, "192.0.2.0/24\n2001:db8::/32\n")
	write(t, two, `{"type": "cidr", "list": ["198.51.100.0/24"]}`)
	c, err := Load(main, true)
	if err != nil || len(c.Lists) != 2 || c.Lists[0].Prefixes() != 2 || c.Lists[1].Prefixes() != 1 || c.Lists[0].Digest == c.Lists[1].Digest {
		t.Errorf("%+v, %v", c.Lists, err)
	}
	if text := Effective(c); !strings.Contains(text, "files = ["+strict.Quote(one)+", "+strict.Quote(two)+"]") {
		t.Error(text)
	}
	write(t, one, "192.0.2.0/24\n 2001:db8::1/32\n")
	if err := os.Remove(two); err != nil {
		t.Fatal(err)
	}
	want := one + `:2:2: "2001:db8::1/32" has bits beyond its length: 2001:db8::/32 is meant?` + "\n" + main + ":4:" + fmt.Sprint(14+len(one)) + ": shield.files: read list " + two + ": no such file or directory"
	if _, err := Load(main, true); err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
	write(t, main, some+"[shield]\nfiles = [\"list\", \"/dev/zero\", \"/dev/zero\"]")
	want = main + `:4:10: shield.files: "list" is no absolute path` + "\n" + main + `:4:31: shield.files: "/dev/zero" stands twice` + "\n" + main + `:4:18: shield.files: read list /dev/zero: not a regular file`
	if _, err := Load(main, true); err == nil || err.Error() != want {
		t.Errorf("%v\nwant\n%s", err, want)
	}
}
