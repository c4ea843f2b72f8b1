package rules

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/rules/strict"
)

func toml(name, text string) strict.File { return strict.File{Name: name, Text: []byte(text)} }

func presets(t *testing.T, files ...strict.File) Presets {
	t.Helper()
	all, errs := ReadPresets(files)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return all
}

// someHost is what a host may be.
func someHost(p Preset) Facts {
	return Facts{
		Outside: []string{"eth0"}, Users: []User{{"root", 0}, {"_chrony", 105}},
		Own: p.Choices.Own(prefixes("2001:db8:1::5/128", "2001:db8:1::/64", "10.0.0.0/8", "192.0.2.7/32")),
	}
}

// TestPresetText pins what each built-in preset renders to on a host.
func TestPresetText(t *testing.T) {
	for name, p := range presets(t) {
		got, path := compile(t, p.Shield(someHost(p))).Text(time.Hour), "testdata/preset-"+name+".nft"
		if *rewrite {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(path); err != nil || got != string(want) {
			t.Errorf("%s differs (rewrite it with -rewrite), %v:\n%s", path, err, got)
		}
	}
}

// TestWorkstationSaysEveryKey: whatever a preset leaves out, it has a value.
func TestWorkstationSaysEveryKey(t *testing.T) {
	text, err := builtIn.ReadFile("presets/workstation.toml")
	if err != nil {
		t.Fatal(err)
	}
	entries, _ := strict.Read(toml("w", string(text)), func(string) bool { return true })
	for _, k := range presetKeys {
		if !slices.ContainsFunc(entries, func(e strict.Entry) bool { return e.Key == k.name }) {
			t.Errorf("%s is not in workstation.toml", k.name)
		}
	}
	w := presets(t)[DefaultPreset]
	bare := w.Shield(Facts{})
	bare.Choices = Choices{}
	if got, want := compile(t, bare).String(), compile(t, w.Shield(Facts{})).String(); got != want {
		t.Errorf("no choices are\n%s\nthe workstation's\n%s", got, want)
	}
}

// TestEveryChoiceHasItsReason: a built-in preset says no key without a comment on it
// or on one above it, in the same table.
func TestEveryChoiceHasItsReason(t *testing.T) {
	names, _ := filepath.Glob("presets/*.toml")
	if len(names) != 6 {
		t.Fatalf("presets %v", names)
	}
	for _, name := range names {
		text, _ := os.ReadFile(name)
		commented := false
		for _, line := range strings.Split(string(text), "\n") {
			switch {
			case strings.HasPrefix(line, "["):
				commented = false
			case strings.HasPrefix(line, "#"):
				commented = true
			case strings.Contains(line, "= ") && !commented:
				t.Errorf("%s: %s: no reason is given", name, line)
			}
		}
	}
}

// TestTextIsTheSamePreset, of every preset and with every key away from its default.
func TestTextIsTheSamePreset(t *testing.T) {
	everything := toml("everything.toml", everyKey)
	for name, p := range presets(t, everything) {
		again := presets(t, toml(name+".toml", p.Text()))[name]
		p.Origin, again.Origin = "", ""
		if !reflect.DeepEqual(p, again) {
			t.Errorf("%s became\n%+v\nwas\n%+v", p.Text(), again, p)
		}
	}
	w, e := presets(t)[DefaultPreset], presets(t, everything)["everything"]
	for _, k := range presetKeys {
		if k.get(&w) == k.get(&e) {
			t.Errorf("%s is not changed by the test", k.name)
		}
	}
}

const everyKey = `
extends = "server"
about = "quoted \"and\" back\\slashed"
neighbourhood = { ipv4 = 0x10, ipv6 = 5_6, hold = "7m" }
[closed]
to = "everyone"
action = "reject"
hooks = ["forward", "input"]
outside = ["wan0", "ppp0"]
allow = ["tcp/22", "udp/8000-8010", "tcp/443@eth0.5", "udp/1-2@br-1@x"] # a comment
trusted = ["192.0.2.1", "2001:db8::/32"]
[ntp]
inbound = "answers"
[learn]
from = "output"
users = ["ntp", "_chrony"]
rate = 1
burst = 2
[log]
closed = false
rate = 7
burst = 8
group = 9
[table]
owner = true
`

func TestEveryPresetKey(t *testing.T) {
	got := presets(t, toml("dir/everything.toml", everyKey))["everything"]
	want := Preset{
		Name: "everything", About: `quoted "and" back\slashed`, Origin: "dir/everything.toml", Mode: Enforce, Hold: 7 * time.Minute, Owner: true, LogGroup: 9,
		Allow:   []Service{{Proto: "tcp", Port: 22}, {Proto: "udp", Port: 8000, Last: 8010}, {Proto: "tcp", Port: 443, Device: "eth0.5"}, {"udp", 1, 2, "br-1@x"}},
		Trusted: prefixes("192.0.2.1/32", "2001:db8::/32"), Outside: []string{"wan0", "ppp0"}, Users: []string{"ntp", "_chrony"},
		Choices: Choices{Hood4: 16, Hood6: 56, Hooks: AtBoth, Everyone: true, Listening: true, Reject: true, Leaf: true, Silent: true,
			LogRate: 7, LogBurst: 8, Learn: FromOutput, LearnRate: 1, LearnMax: 2},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestPresetErrors pins what an admin reads.
func TestPresetErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"extends = \"none\"\nfoo = 1\n[closed]\naction = \"ignore\"", "a.toml:1:1: extends: there is no preset \"none\"\na.toml:2:1: unknown key foo\na.toml:4:1: closed.action: one of drop, reject, count is wanted"},
		{"extends = \"b\"", "a.toml:1:1: extends: a is, by way of others, what it extends itself"},
		{"extends = \"a\"", "a.toml:1:1: extends: a is, by way of others, what it extends itself"},
		{"extends = 1", "a.toml:1:1: extends: the name of a preset is wanted"},
		{"[close]\nto = 1", "a.toml:1:2: unknown table [close]"},
		{"closed = \"no\"", "a.toml:1:1: closed: a table is wanted"},
		{"[neighbourhood]\nipv4 = 7\nipv6 = \"48\"\nhold = \"25h\"", "a.toml:2:1: neighbourhood.ipv4: 7 is not from 8 to 32\na.toml:3:1: neighbourhood.ipv6: a whole number is wanted\na.toml:4:1: neighbourhood.hold: 25h is not from 0s to 24h"},
		{"[neighbourhood]\nhold = 15", `a.toml:2:1: neighbourhood.hold: a time such as "15m" is wanted`},
		{"[closed]\nallow = [\"tcp/9-8\"]", `a.toml:2:10: closed.allow: "tcp/9-8" is no service such as tcp/22, udp/8000-8010 or tcp/443@eth0`},
		{"[closed]\nallow = [\"tcp/1\", \"icmp/8\"]\ntrusted = [\"10.0.0.1/8\"]", `a.toml:2:19: closed.allow: "icmp/8" is no service such as tcp/22, udp/8000-8010 or tcp/443@eth0` + "\n" + `a.toml:3:12: closed.trusted: "10.0.0.1/8" has bits beyond its length: 10.0.0.0/8 is meant?`},
		{"[closed]\nallow = [\"tcp/22@e*\"]", `a.toml:2:10: closed.allow: "tcp/22@e*" is no service such as tcp/22, udp/8000-8010 or tcp/443@eth0`},
		{"[closed]\nhooks = [\"output\"]", `a.toml:2:1: closed.hooks: ["output"] is none of ["input"], ["forward"], ["input", "forward"]`},
		{"[closed]\noutside = [\"eth0\\n\"]", `a.toml:2:12: closed.outside: "eth0\n" is no name of an interface`},
		{"[closed]\nlistening = \"true\"", "a.toml:2:1: closed.listening: one of true, false is wanted"},
		{"[learn]\nfrom = \"forward\"", `a.toml:2:1: learn.from: "forward" needs "forward" in closed.hooks`},
		{"[learn]\nfrom = \"output\"", `a.toml:2:1: learn.users: "output" learns from these users' queries, and none is named`},
		{"[learn]\nusers = [\"a b\"]", `a.toml:2:10: learn.users: "a b" is no name of a user`},
		{"[closed]\nlistening = true\nhooks = [\"forward\"]", `a.toml:2:1: closed.listening: no socket of this host listens in "forward" alone`},
		{"[ntp]\ninbound = \"answers\"\n[closed]\nhooks = [\"forward\"]", `a.toml:2:1: ntp.inbound: "answers" is about this host's own port 123, which needs "input" in closed.hooks`},
		{"[closed]\noutside = ['a\\b']", `a.toml:2:12: closed.outside: "a\\b" is no name of an interface`},
		{"about = \"two\\nlines\"", "a.toml:1:1: about: one line of at most 200 bytes is wanted"},
		{"foo = {}\nclosed = { allow = {}, to = {}, hooks = { } }", "a.toml:1:1: unknown key foo\na.toml:2:12: closed.allow: a list of strings is wanted\na.toml:2:24: closed.to: one of neighbourhoods, everyone is wanted\na.toml:2:33: closed.hooks: a list of strings is wanted"},
		{"[log\nrate = 1", "a.toml:1:5: "},
		{"about = \"\xff\"", "a.toml:1:10: it is not UTF-8"},
	} {
		_, errs := ReadPresets([]strict.File{toml("a.toml", tt.text), toml("b.toml", "extends = \"a\"")})
		if got := errs.Error(); got != tt.want && !(strings.HasSuffix(tt.want, ": ") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%q:\n%s\nwant\n%s", tt.text, got, tt.want)
		}
	}
	if _, errs := ReadPresets([]strict.File{toml("x/no name.toml", "")}); errs.Error() != `x/no name.toml: "no name" is no name of a preset: letters, digits, - and _ are taken` {
		t.Errorf("%s", errs)
	}
}

// TestEmptyPreset: a file that says nothing is no preset, least of all that of the
// built-in one whose name it bears.
func TestEmptyPreset(t *testing.T) {
	for _, text := range []string{"", "# soon\n", "[closed]\n", "closed = {}\n"} {
		_, errs := ReadPresets([]strict.File{toml("server.toml", text)})
		if want := `server.toml: it says nothing, and a preset says what it extends at least: extends = "workstation"`; errs.Error() != want {
			t.Errorf("%q: %v\nwant %s", text, errs, want)
		}
	}
}

// TestExtending: a later file of the same name hides an earlier one, and can extend
// it; children follow.
func TestExtending(t *testing.T) {
	all := presets(t,
		toml("/usr/share/workstation.toml", "[closed]\nallow = [\"tcp/1\"]\n[log]\nrate = 1"),
		toml("/etc/workstation.toml", "extends = \"workstation\"\n[closed]\nallow = [\"tcp/2\"]"),
		toml("/etc/site.toml", "extends = \"observe\"\n[neighbourhood]\nipv6 = 64"),
		toml("/etc/office.toml", "extends = \"site\"\n[neighbourhood]\nipv4 = 16"))
	w, o := all["workstation"], all["office"]
	if w.Allow[0].Port != 2 || w.Choices.LogRate != 1 || w.Choices.LogBurst != 20 || w.Origin != "/etc/workstation.toml" {
		t.Errorf("workstation %+v", w)
	}
	if o.Allow[0].Port != 2 || o.Mode != Observe || o.Choices.Hood4 != 16 || o.Choices.Hood6 != 64 || all["server"].Origin != "built in" {
		t.Errorf("office %+v", o)
	}
}

// TestOwnIsAsWideAsANeighbourhood, so that one address tells whether a neighbourhood
// contains something of the host's.
func TestOwnIsAsWideAsANeighbourhood(t *testing.T) {
	got := Choices{Hood6: 56}.Own(prefixes("192.0.2.7/32", "10.0.0.0/8", "10.1.0.0/16", "2001:db8:0:101::1/128", "2001:db8:0:102::/64", "fe80::/10"))
	if want := prefixes("10.0.0.0/8", "192.0.2.0/24", "2001:db8:0:100::/56", "fe80::/10"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestNothingIsLearntForEver: without a hold an element would have no timeout.
func TestNothingIsLearntForEver(t *testing.T) {
	for _, name := range []string{"router", "companion"} {
		p := presets(t)[name]
		s := p.Shield(someHost(p))
		s.Hold = 0
		if text := compile(t, s).String(); strings.Contains(text, "learnt") {
			t.Errorf("%s learns:\n%s", name, text)
		}
	}
}

// TestANetworkIsBoundedByItsRoom: what is learnt of a /64 in a hold stays well below
// what the set holds, and no host of it is bounded more than it was told.
func TestANetworkIsBoundedByItsRoom(t *testing.T) {
	for _, tt := range []struct {
		hold        time.Duration
		rate, burst uint32
		want        string
	}{
		{15 * time.Minute, 0, 0, "limit rate 300/minute burst 1000 packets"},
		{24 * time.Hour, 0, 0, "limit rate 11/minute burst 1000 packets"},
		{30 * time.Second, 0, 0, "limit rate 300/minute burst 1000 packets"},
		{15 * time.Minute, 400, 2000, "limit rate 400/minute burst 2000 packets"},
	} {
		p := presets(t)["router"]
		s := p.Shield(someHost(p))
		s.Hold, s.Choices.LearnRate, s.Choices.LearnMax = tt.hold, tt.rate, tt.burst
		text := compile(t, s).String()
		if !strings.Contains(text, "update @networks6 { ip6 saddr & ffff:ffff:ffff:ffff:: "+tt.want+" } update @learners6") {
			t.Errorf("%+v:\n%s", tt, text)
		}
	}
}

// TestALeafThatServes: who lists udp/123 serves time, and is no leaf.
func TestALeafThatServes(t *testing.T) {
	for _, allow := range []Service{{Proto: "udp", Port: 123}, {Proto: "udp", Port: 100, Last: 200}, {Proto: "udp", Port: 123, Device: "eth0"}} {
		s := Shield{Mode: Enforce, Choices: Choices{Leaf: true}, Allow: []Service{allow}}
		if text := compile(t, s).String(); strings.Contains(text, "leaf") {
			t.Errorf("%s: still a leaf", allow)
		}
		s.Allow[0].Proto = "tcp"
		if text := compile(t, s).String(); !strings.Contains(text, "goto leaf") {
			t.Errorf("%s: no leaf", s.Allow[0])
		}
	}
}

// TestRejectNeverAnswersFromAThrowAway address.
func TestRejectNeverAnswersFromAThrowAway(t *testing.T) {
	text := compile(t, Shield{Mode: Enforce, Choices: Choices{Reject: true}}).String()
	drop, reject := strings.Index(text, "@exposed6 counter drop"), strings.Index(text, "reject")
	if drop < 0 || reject < drop {
		t.Errorf("drop at %d, reject at %d", drop, reject)
	}
	if text := compile(t, Shield{Mode: Observe, Choices: Choices{Reject: true}}).String(); strings.Contains(text, "reject") {
		t.Error("an observing shield rejects")
	}
}

func FuzzReadPresets(f *testing.F) {
	f.Add([]byte(everyKey), []byte("extends = \"a\""))
	names, _ := filepath.Glob("presets/*.toml")
	for _, name := range names {
		text, _ := os.ReadFile(name)
		f.Add(text, []byte("extends = \"b\""))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		all, errs := ReadPresets([]strict.File{{Name: "a.toml", Text: a}, {Name: "b.toml", Text: b}})
		for _, e := range errs {
			text := map[string][]byte{"a.toml": a, "b.toml": b}[e.File]
			if e.Text == "" || text == nil && e.Line > 0 || e.Line > bytes.Count(text, []byte("\n"))+1 {
				t.Errorf("%v is outside the file", e)
			}
		}
		if len(errs) > 0 && all != nil {
			t.Error("refused and taken")
		}
		for _, p := range all {
			if _, err := Compile(p.Shield(Facts{Own: []netip.Prefix{netip.MustParsePrefix("::/0")}})); err != nil {
				t.Errorf("%s: %v", p.Text(), err)
			}
			again, errs := ReadPresets([]strict.File{{Name: "a.toml", Text: []byte(p.Text())}})
			if len(errs) > 0 || again["a"].Text() != p.Text() {
				t.Errorf("%s\n%v", p.Text(), errs)
			}
		}
	})
}

func FuzzParseService(f *testing.F) {
	for _, s := range []string{"tcp/22", "udp/8000-8010", "tcp/443@eth0", "udp/1-2@br-1@x", "tcp/0", "sctp/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x, err := ParseService(text)
		if err != nil {
			return
		}
		again, err := ParseService(x.String())
		if err != nil || again != x {
			t.Errorf("%q is %+v, and again %+v, %v", text, x, again, err)
		}
	})
}
