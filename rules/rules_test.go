package rules

import (
	"flag"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the files in testdata anew")

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// sample is a shield with something of everything.
func sample() Shield {
	return Shield{
		Mode: Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"br-1@x", "eth0"},
		Allow:   []Service{{Proto: "tcp", Port: 22}, {Proto: "udp", Port: 443}, {Proto: "tcp", Port: 80}, {Proto: "tcp", Port: 22}},
		Trusted: prefixes("10.0.0.0/8", "2001:db8:f::/48"),
		Exposed: []Exposed{{Addr: netip.MustParseAddr("2001:db8::1"), Until: 26 * time.Hour}, {Addr: netip.MustParseAddr("2001:db8::2"), Until: time.Hour}},
		Solicited: []Solicited{
			{Server: netip.MustParseAddrPort("192.0.2.1:123"), Our: netip.MustParseAddrPort("198.51.100.2:40000"), Until: time.Hour + 5*time.Second},
			{Server: netip.MustParseAddrPort("[2001:db8:5::1]:123"), Our: netip.MustParseAddrPort("[2001:db8::1]:40001"), Until: time.Hour + 1500*time.Millisecond},
			{Server: netip.MustParseAddrPort("[2001:db8:5::1]:4460"), Our: netip.MustParseAddrPort("[2001:db8::2]:40002"), TCP: true, Until: time.Hour + 5*time.Second},
		},
		Hoods: []Hood{
			{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Server: netip.MustParseAddr("192.0.2.1"), Until: 2 * time.Hour},
			{Prefix: netip.MustParsePrefix("2001:db8:5::/48"), Server: netip.MustParseAddr("2001:db8:5::1"), Until: 2 * time.Hour},
			{Prefix: netip.MustParsePrefix("2001:db8:6::/56"), Server: netip.MustParseAddr("2001:db8:6::1"), Until: 2 * time.Hour},
		},
	}
}

// listed is a shield with lists of prefixes.
func listed() Shield {
	s := Shield{Mode: Enforce, Preset: DefaultPreset, Facts: Facts{Near: prefixes("192.0.2.0/24", "2001:db8::/64")}}
	s.Lists = []List{
		{Name: "/a", Digest: [32]byte{1}, Lengths: []Length{{Bits: 24, Prefixes: 1000}, {Bits: 32, Prefixes: 7}, {Six: true, Bits: 48, Prefixes: 20}}},
		{Name: "/b", Digest: [32]byte{2}, Lengths: []Length{{Bits: 8, Prefixes: 1}, {Bits: 24, Prefixes: 500}}},
	}
	return s
}

func compile(t *testing.T, s Shield) Table {
	t.Helper()
	table, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestText pins the rule sets as text, an hour after boot.
func TestText(t *testing.T) {
	observe := sample()
	observe.Mode = Observe
	for name, s := range map[string]Shield{"enforce": sample(), "observe": observe, "lists": listed(), "bare": {Mode: Enforce, Preset: DefaultPreset}} {
		got, path := compile(t, s).Text(time.Hour), "testdata/"+name+".nft"
		if *rewrite {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s differs (rewrite it with -rewrite):\n%s", path, got)
		}
	}
}

func TestOffIsNoTable(t *testing.T) {
	if text := compile(t, Shield{}).Text(0); text != "" {
		t.Errorf("mode off: %q", text)
	}
}

// TestNothingIsDroppedUnlessEnforced: in every other mode no rule drops, and each
// rule that would says so.
func TestNothingIsDroppedUnlessEnforced(t *testing.T) {
	for mode, word := range map[Mode]string{Observe: "observing, not dropped", Disarmed: "disarmed, not dropped"} {
		s := sample()
		s.Mode = mode
		text := compile(t, s).String()
		if strings.Contains(text, " drop ") {
			t.Errorf("%s drops:\n%s", mode, text)
		}
		if n := strings.Count(text, word); n != 4+len(s.Devices) {
			t.Errorf("%s: %q stands %d times", mode, word, n)
		}
	}
}

// TestEveryRule has a comment, looks at the family before anything of the network
// layer and at the transport before anything of its header.
func TestEveryRule(t *testing.T) {
	for _, c := range compile(t, sample()).Chains {
		for _, r := range c.Rules {
			if r.Comment == "" || len(r.Comment) > 127 {
				t.Errorf("%s: %s: comment of %d bytes", c.Name, r, len(r.Comment))
			}
			family, transport := false, false
			for _, e := range r.Exprs {
				for _, f := range fieldsOf(e) {
					switch {
					case f == Family:
						family = true
					case f == Transport || f == NextHdr6:
						transport = true
					case f >= SPortUDP && !transport, f > Transport && f != PortPublished && !family: // which conntrack knows
						t.Errorf("%s: %s: looks at %s too early", c.Name, r, f)
					}
				}
			}
		}
	}
}

func fieldsOf(e Expr) []Field {
	switch e := e.(type) {
	case Is:
		return []Field{e.Field}
	case OneOf:
		return []Field{e.Field}
	case Within:
		return []Field{e.Field}
	case In:
		return e.Fields
	case Note:
		return []Field{e.Field}
	}
	return nil
}

// TestAddUndoesCompile: what is compiled reads back as what it was.
func TestAddUndoesCompile(t *testing.T) {
	want := sample()
	got := Shield{Mode: want.Mode, Preset: want.Preset, LogGroup: want.LogGroup, Devices: want.Devices, Allow: want.Allow, Trusted: want.Trusted}
	for _, set := range compile(t, want).Sets {
		for _, e := range set.Elements {
			if !set.Interval && !got.Add(set.Name, []byte(e.Key), e.Until, e.Comment, 0) {
				t.Errorf("%s: %q is not read back", set.Name, e.Key)
			}
		}
	}
	got.Sort()
	want.Sort()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back\n%+v\nwant\n%+v", got, want)
	}
	key := want.Exposed[1].Addr.AsSlice()
	if got.Add(Probes6, key, 0, "", 7); got.Exposed[1].Dropped != 7 {
		t.Error("the count of probes was not read back")
	}
}

// TestOthersAreBounded: the most of them are told one by one, and all are in the sum.
func TestOthersAreBounded(t *testing.T) {
	var s Shield
	for i := range 300 {
		if !s.Add(Others4, []byte{198, 51, byte(i >> 8), byte(i)}, 1, "", uint64(i)) {
			t.Fatal("refused")
		}
	}
	if s.Add(Others4, make([]byte, 16), 1, "", 1) || s.Add(Others6, make([]byte, 4), 1, "", 1) || !s.Add(Others6, netip.MustParseAddr("2001:db8:1::").AsSlice(), 1, "", 1000) {
		t.Error("a key of the wrong width was taken, or the right one was not")
	}
	s.Sort()
	o := s.Others
	if o.Dropped != 1000+299*300/2 || len(o.Most) != MostOthers || o.Most[0] != (Other{netip.MustParsePrefix("2001:db8:1::/48"), 1000}) || o.Most[1].Dropped != 299 {
		t.Errorf("%d, %d told, %v", o.Dropped, len(o.Most), o.Most[:2])
	}
}

// TestOthersAreCountedWhereTheyAreClosedOut, and nowhere else: all other rule sets
// stay as they are.
func TestOthersAreCountedWhereTheyAreClosedOut(t *testing.T) {
	leaf, served, alone, perimeter := sample(), sample(), sample(), sample()
	leaf.Choices.Leaf = true
	served.Choices.Leaf, served.Allow = true, []Service{{Proto: "udp", Port: 123}}
	alone.Choices.Learn, alone.Hold = FromOutput, time.Hour
	perimeter.Choices.Everyone = true
	for name, tt := range map[string]struct {
		shield Shield
		notes  int // rules that note
	}{"neighbourhoods": {sample(), 0}, "leaf": {leaf, 2}, "leaf that serves": {served, 0}, "perimeter": {perimeter, 2}, "lists": {listed(), 2}, "what the kernel learns": {alone, 2}} {
		text := compile(t, tt.shield).String()
		if n := strings.Count(text, "update @others"); n != tt.notes || strings.Contains(text, "set others6 {") != (n > 0) {
			t.Errorf("%s: others are noted in %d rules, want %d", name, n, tt.notes)
		}
	}
}

func FuzzAdd(f *testing.F) {
	table, _ := Compile(sample())
	for _, set := range table.Sets {
		for _, e := range set.Elements {
			f.Add(set.Name, []byte(e.Key), e.Comment)
		}
	}
	f.Add("hoods6_999", make([]byte, 16), "server ::1")
	f.Fuzz(func(t *testing.T, set string, key []byte, comment string) {
		var s Shield
		if ok := s.Add(set, key, 1, comment, 1); !ok && len(s.Exposed)+len(s.Solicited)+len(s.Hoods)+len(s.Others.Most) > 0 {
			t.Error("refused and taken")
		}
		for _, h := range s.Hoods {
			if !h.Prefix.IsValid() || h.Prefix != h.Prefix.Masked() {
				t.Errorf("bad prefix %v", h.Prefix)
			}
		}
	})
}

// TestSameFrame agrees with the text.
func TestSameFrame(t *testing.T) {
	for name, change := range map[string]func(*Shield){
		"nothing": func(*Shield) {}, "mode": func(s *Shield) { s.Mode = Observe }, "preset": func(s *Shield) { s.Preset = "x" },
		"log group": func(s *Shield) { s.LogGroup = 6 }, "devices": func(s *Shield) { s.Devices = s.Devices[:1] },
		"allow": func(s *Shield) { s.Allow = s.Allow[:1] }, "trusted": func(s *Shield) { s.Trusted = s.Trusted[:1] },
		"inside trusted": func(s *Shield) { s.Trusted = append(prefixes("10.1.0.0/16"), s.Trusted...) },
		"elements":       func(s *Shield) { s.Exposed, s.Solicited = nil, nil }, "deadlines": func(s *Shield) { s.Hoods[0].Until++ },
		"a length more": func(s *Shield) { s.Hoods = append(s.Hoods, Hood{Prefix: prefixes("192.0.2.0/28")[0]}) },
		"a length less": func(s *Shield) { s.Hoods = s.Hoods[:2] }, "a usual length less": func(s *Shield) { s.Hoods = s.Hoods[1:] },
	} {
		other := sample()
		change(&other)
		if same := compile(t, sample()).String() == compile(t, other).String(); sample().SameFrame(other) != same {
			t.Errorf("%s: same text %v, SameFrame says otherwise", name, same)
		}
	}
}

func TestWidest(t *testing.T) {
	got := Widest(prefixes("10.1.0.0/16", "10.0.0.0/8", "2001:db8::1/32", "10.0.0.0/8", "11.0.0.0/8", "::/0"))
	if want := prefixes("10.0.0.0/8", "11.0.0.0/8", "::/0"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPrefixOfUndoesBehind(t *testing.T) {
	for _, p := range prefixes("0.0.0.0/0", "10.0.0.0/8", "255.0.0.0/8", "192.0.2.7/32", "::/0", "::/1", "ff00::/8", "2001:db8::/32") {
		if got := PrefixOf(string(p.Addr().AsSlice()), behind(p)); got != p {
			t.Errorf("%s became %s", p, got)
		}
	}
}

func FuzzPrefixOf(f *testing.F) {
	for _, p := range prefixes("10.0.0.0/8", "255.0.0.0/8", "::/0") {
		f.Add(string(p.Addr().AsSlice()), behind(p))
	}
	f.Add("\xc6\x33\x64\x0a", "\xc6\x33\x64\x15") // a range
	f.Add("\x00\x16", "\x00\x17")                 // another type of key
	f.Add("", "")                                 // a catch-all element
	f.Fuzz(func(t *testing.T, key, end string) {
		if p := PrefixOf(key, end); p.IsValid() && (string(p.Addr().AsSlice()) != key || behind(p) != end) {
			t.Errorf("%q to %q became %s", key, end, p)
		}
	})
}

func TestIngressName(t *testing.T) {
	for device, want := range map[string]string{"eth0.5": "ingress_eth0.5", "a@b": "ingress_a/40b", "6to4": "ingress_6to4", "é": "ingress_/c3/a9"} {
		if got := IngressName(device); got != want {
			t.Errorf("%s: got %s, want %s", device, got, want)
		}
	}
	for _, device := range []string{"", "eth*", `a"b`, `a\b`} {
		if _, err := Compile(Shield{Mode: Enforce, Devices: []string{device}}); err == nil {
			t.Errorf("device %q was taken", device)
		}
	}
}

// TestDevicesAreWrittenAsTheyAre: nft knows no escapes.
func TestDevicesAreWrittenAsTheyAre(t *testing.T) {
	const odd = "é\u200b\xff"
	if got := (From{odd}).String() + (To{odd}).String(); got != `iifname "`+odd+`"oifname "`+odd+`"` {
		t.Error(got)
	}
	if err := CheckDevice(`a\b`); err == nil {
		t.Error("a backslash was taken")
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", time.Millisecond: "1ms", 90*time.Second + 5*time.Millisecond: "1m30s5ms", 25 * time.Hour: "1d1h"} {
		if got := span(d); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
}

// TestListsAreToldApart by what they hold, not by where they stand; sets of other
// lists have other names.
func TestListsAreToldApart(t *testing.T) {
	a, b := listed(), listed()
	b.Lists[0].Name = "/elsewhere"
	if !SameLists(a.Lists, b.Lists) || !a.SameFrame(b) || a.Equal(b) {
		t.Error("a list was moved: same frame, another wish")
	}
	b.Lists[0].Digest[31]++
	if SameLists(a.Lists, b.Lists) || a.SameFrame(b) || BlockedSet(a.Lists, true, 48) == BlockedSet(b.Lists, true, 48) {
		t.Error("a list was changed, and nobody notices")
	}
	for _, set := range a.Sets() {
		if got := IsBlocked(set.Name); got != strings.HasPrefix(set.Name, "blocked") {
			t.Errorf("%s is blocked: %v", set.Name, got)
		}
	}
	if b.Lists = nil; len(Blocked(b.Lists)) > 0 || strings.Contains(compile(t, b).String(), "near") {
		t.Error("without a list there is a set of what lists must not block")
	}
}
