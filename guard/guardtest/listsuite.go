package guardtest

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"ntpveil/rules"
	"ntpveil/rules/lists"
)

// WriteList writes a list of prefixes and reads it as the configuration does.
func WriteList(t testing.TB, text string) rules.List {
	t.Helper()
	path := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, errs := lists.Read(path, f, func(netip.Prefix) {})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return l
}

// suiteLists: lists are blocked by Block alone, and stay until another Block, or
// until the table is lost.
func suiteLists(t *testing.T, b ShieldBench) {
	want, s := suiteWish(), b.Shield
	block := func(what string, changes bool, lists ...rules.List) {
		t.Helper()
		w := want
		w.Lists = lists
		changed, err := s.Block(t.Context(), suiteNow, w)
		if err != nil || changed != changes {
			t.Errorf("%s: changed %v, %v", what, changed, err)
		}
	}
	expect := func(lists ...rules.List) {
		t.Helper()
		w := want
		w.Lists = lists
		suiteSees(t, s, w)
	}
	one := WriteList(t, "192.0.2.0/24\n192.0.2.0/24\n2001:db8::/32\n")
	two := WriteList(t, "203.0.113.7\n2001:db8:7::1\n2001:db8:8::/45\n")
	block("there is no table", false, one)
	want.Lists = []rules.List{one}
	suiteDo(t, s.Grow(suiteNow, want))
	expect()
	block("the first", true, one)
	expect(one)
	block("again", false, one)
	block("both", true, one, two)
	suiteDo(t, s.Grow(suiteNow, want))
	suiteDo(t, s.Shrink(suiteNow, want))
	expect(one, two)
	block("the second", true, two)
	expect(two)
	b.Flush()
	suiteDo(t, s.Grow(suiteNow, want))
	expect()
	block("put back", true, two)
	expect(two)
	block("none", true)
	expect()
}
