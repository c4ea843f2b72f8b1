package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/guardtest"
	"ntpveil/guard/regular"
	"ntpveil/rules"
)

// blockTo blocks a text of prefixes.
func blockTo(t testing.TB, s *Shield, w rules.Shield, text string) rules.List {
	t.Helper()
	l := guardtest.WriteList(t, text)
	w.Lists = []rules.List{l}
	_, err := s.Block(t.Context(), mono(), w)
	must(t, err)
	return l
}

// many are n prefixes of a length, as a list.
func many(n, bits int, six bool) string {
	var b strings.Builder
	for i := range n {
		a := netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 0})
		if six {
			a = netip.AddrFrom16([16]byte{0x2a, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
		}
		fmt.Fprintln(&b, netip.PrefixFrom(a, bits))
	}
	return b.String()
}

// elementsOf counts the elements of a set.
func (k *kernel) elementsOf(set string) int {
	text, _ := k.tryNft("", "list", "set", "inet", "ntpveil", set)
	_, list, some := strings.Cut(text, "elements = {")
	if !some {
		return 0
	}
	return strings.Count(list, ",") + 1
}

var whatRuns = regexp.MustCompile(` expires [0-9a-z]+`)

// table is the table without what runs.
func (k *kernel) table(t *testing.T) string {
	return whatRuns.ReplaceAllString(k.nft(t, "", "-s", "list", "table", "inet", "ntpveil"), "")
}

// TestBlockedTable is what nft prints, and reads back.
func TestBlockedTable(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	w.Facts.Near = []netip.Prefix{netip.MustParsePrefix("192.0.2.64/26"), netip.MustParsePrefix("2001:db8:1::/64")}
	must(t, s.Grow(mono(), w))
	l := blockTo(t, s, w, "192.0.2.0/24\n203.0.113.7\n198.51.100.0/25\n198.51.100.0/25\n2001:db8:9::/48\n2001:db8:7::1\n")
	set := rules.BlockedSet([]rules.List{l}, false, 24)
	text := k.nft(t, "", "list", "table", "inet", "ntpveil")
	for _, want := range []string{
		"set " + set, "elements = { 192.0.2.0 }", "elements = { 203.0.113.7 }", "elements = { 198.51.100.0 }", "elements = { 2001:db8:9:: }",
		"blocked prefixes, each a /25: 2 are listed", "elements = { 192.0.2.64/26 }",
		"ip saddr & 255.255.255.0 == @" + set + ` ip saddr != @near4 counter packets 0 bytes 0 goto others comment "from a blocked prefix, a /24"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("nft does not print %s:\n%s", want, text)
		}
	}
	w.Lists = []rules.List{l}
	table, err := rules.Compile(w)
	must(t, err)
	k.nft(t, table.String(), "-c", "-f", "-")
}

// TestEveryLengthAtOnce: more look-ups than the kernel takes in one rule.
func TestEveryLengthAtOnce(t *testing.T) {
	var b strings.Builder
	for bits := 16; bits <= 128; bits++ {
		fmt.Fprintln(&b, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x2a, byte(bits)}), bits))
	}
	w := newWire(t)
	s := w.host.open(t)
	shield := rules.Shield{Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"}}
	must(t, s.Grow(mono(), shield))
	blockTo(t, s, shield, b.String())
	for i, want := range map[byte]int{15: 1, 16: 0, 60: 0, 90: 0, 127: 0, 128: 0, 129: 1} {
		from := netip.AddrFrom16([16]byte{0x2a, i})
		w.send(from, stable, 6, syn(from, stable, 8080), 64)
		if got := w.answers(); len(got) != want {
			t.Errorf("from %s: %d answers, want %d", from, len(got), want)
		}
	}
}

// TestBlockSwitchesWhole: what fails leaves the lists of before, and no set behind.
func TestBlockSwitchesWhole(t *testing.T) {
	k, s, w := inForce(t)
	one := blockTo(t, s, w, many(5000, 48, true))
	before := k.table(t)
	two := guardtest.WriteList(t, many(3000, 24, false))
	for name, spoil := range map[string]func(){
		"changed":  func() { must(t, os.WriteFile(two.Name, []byte(many(2999, 24, false)), 0o600)) },
		"longer":   func() { must(t, os.WriteFile(two.Name, []byte(many(3001, 24, false)), 0o600)) },
		"no list":  func() { must(t, os.WriteFile(two.Name, []byte("nonsense"), 0o600)) },
		"no file":  func() { must(t, os.Remove(two.Name)) },
		"set full": func() { two.Lengths[0].Prefixes = 10 },
	} {
		spoil()
		w.Lists = []rules.List{one, two}
		if changed, err := s.Block(t.Context(), mono(), w); err == nil || changed {
			t.Errorf("%s: changed %v, %v", name, changed, err)
		}
		if got := seen(t, s).Lists; !rules.SameLists(got, []rules.List{one}) {
			t.Errorf("%s: %d lists in force", name, len(got))
		}
		if now := k.table(t); now != before {
			t.Errorf("%s: the table changed", name)
		}
	}
}

// inForce is a kernel with a wish in force.
func inForce(t *testing.T) (*kernel, *Shield, rules.Shield) {
	t.Helper()
	k := newKernel(t)
	s, w := k.open(t), wish()
	must(t, s.Grow(mono(), w))
	return k, s, w
}

// TestKernelRefusesAPart: an error in the middle of filling leaves the table as it
// was.
func TestKernelRefusesAPart(t *testing.T) {
	k, s, w := inForce(t)
	before := k.table(t)
	l := guardtest.WriteList(t, many(9000, 24, false))
	all, err := gather(t.Context(), []rules.List{l})
	must(t, err)
	must(t, s.refresh(mono()))
	all[0].set.Size = 100
	if _, err := s.fill(t.Context(), all); err == nil {
		t.Fatal("9000 prefixes went into a set of 100")
	}
	must(t, s.clear(mono(), all))
	if now := k.table(t); now != before {
		t.Errorf("sets are left:\n%s", now)
	}
	blockTo(t, s, w, many(9000, 24, false))
}

// TestListThatIsAPipe is told at once, though nobody writes into it.
func TestListThatIsAPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "list")
	must(t, unix.Mkfifo(pipe, 0o600))
	done := make(chan error, 1)
	go func() {
		_, err := gather(t.Context(), []rules.List{{Name: pipe}})
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, regular.ErrNotFile) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it hangs")
	}
}

// TestGivingUp leaves nothing behind.
func TestGivingUp(t *testing.T) {
	k, s, w := inForce(t)
	before := k.table(t)
	l := guardtest.WriteList(t, many(9000, 24, false))
	all, err := gather(t.Context(), []rules.List{l})
	must(t, err)
	must(t, s.refresh(mono()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.fill(ctx, all); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	must(t, s.clear(mono(), all))
	w.Lists = []rules.List{l}
	if changed, err := s.Block(ctx, mono(), w); changed || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", changed, err)
	}
	if now := k.table(t); now != before {
		t.Errorf("something is left:\n%s", now)
	}
}

// TestMeddlingWithLists is mended: an element that somebody took away is put back.
func TestMeddlingWithLists(t *testing.T) {
	k, s, w := inForce(t)
	l := blockTo(t, s, w, many(3000, 24, false))
	w.Lists = []rules.List{l}
	ctx, cancel := context.WithCancel(context.Background())
	told, ready, done := make(chan string, 16), make(chan struct{}), make(chan error)
	go func() {
		done <- s.watch(ctx, func() { close(ready) }, func(culprit string) { told <- culprit })
	}()
	<-ready
	set := rules.BlockedSet(w.Lists, false, 24)
	k.nft(t, "", "delete", "element", "inet", "ntpveil", set, "{ 11.0.7.0 }")
	<-told
	must(t, s.Grow(mono(), w))
	if changed, err := s.Block(t.Context(), mono(), w); err != nil || !changed {
		t.Errorf("changed %v, %v", changed, err)
	}
	if n := k.elementsOf(set); n != 3000 {
		t.Errorf("%d prefixes are there", n)
	}
	if changed, err := s.Block(t.Context(), mono(), w); err != nil || changed {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	cancel()
	must(t, <-done)
}

// TestAnotherFrameKeepsLists, and a table that has to be made anew gets them back.
func TestAnotherFrameKeepsLists(t *testing.T) {
	k, s, w := inForce(t)
	l := blockTo(t, s, w, many(500, 40, true))
	w.Lists = []rules.List{l}
	set := rules.BlockedSet(w.Lists, true, 40)
	count := func() int { return k.elementsOf(set) }
	w.Mode, w.Facts.Near = rules.Observe, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	must(t, s.Grow(mono(), w))
	must(t, s.Shrink(mono(), w))
	if n := count(); n != 500 || len(seen(t, s).Lists) != 1 {
		t.Errorf("another mode: %d prefixes", n)
	}
	w.Preset = "server"
	must(t, s.Grow(mono(), w))
	if n := count(); n != 0 || len(seen(t, s).Lists) != 0 {
		t.Errorf("another preset: %d prefixes are left", n)
	}
	changed, err := s.Block(t.Context(), mono(), w)
	if n := count(); n != 500 || !changed || err != nil {
		t.Errorf("another preset: %d prefixes, %v, %v", n, changed, err)
	}
	restarted := k.open(t)
	must(t, restarted.Grow(mono(), w))
	changed, err = restarted.Block(t.Context(), mono(), w)
	if n := count(); n != 500 || !changed || err != nil {
		t.Errorf("restarted: %d prefixes, %v, %v", n, changed, err)
	}
}

// TestBlockedPackets: a blocked prefix reaches nothing but what is allowed; what is
// the host's own, trusted, or an answer passes, though the list holds it.
func TestBlockedPackets(t *testing.T) {
	w := newWire(t)
	s := w.host.open(t)
	shield := rules.Shield{Mode: rules.Enforce, Preset: "workstation", Allow: []rules.Service{{Proto: "tcp", Port: 22}},
		Trusted: []netip.Prefix{netip.MustParsePrefix("2001:db8:f::/48")},
		Facts:   rules.Facts{Near: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64"), netip.MustParsePrefix("2001:db8:5::53/128")}}}
	must(t, s.Grow(mono(), shield))
	resets := func(from string, port uint16) int {
		a := netip.MustParseAddr(from)
		w.send(a, stable, 6, syn(a, stable, port), 64)
		return len(w.answers())
	}
	for _, from := range []string{"2001:db8:5::99", "2001:db8:7::1", "2001:db8:f::1"} {
		if resets(from, 80) == 0 {
			t.Errorf("%s is met by silence before anything is blocked", from)
		}
	}
	blockTo(t, s, shield, "2001:db8::/32\n2001:db8:7::1\n2000::/3\n")
	for from, answers := range map[string]int{"2001:db8:5::99": 0, "2001:db8:7::1": 0, "2620::1": 0, "3001::1": 0,
		"2001:db8:5::53": 1, "2001:db8:1::66": 1, "2001:db8:f::1": 1, "4000::1": 1} {
		if n := resets(from, 80); n != answers {
			t.Errorf("from %s: %d answers, want %d", from, n, answers)
		}
	}
	if resets("2001:db8:7::1", 22) == 0 {
		t.Error("an admin was locked out")
	}
}
