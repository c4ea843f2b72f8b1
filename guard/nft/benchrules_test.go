package nft

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"ntpveil/guard/guardtest"
	"ntpveil/rules"
)

// `make bench-rules` measures what the rules cost; without the flag the same rig is
// tried with a thousand prefixes.
var benchRules = flag.Bool("bench-rules", false, "measure what rules cost, rather than try the rig")

// What was promised.
const (
	mostKnown  = 1.25 // of a packet that matches nothing and answers one of ours, to no table of ours where conntrack works anyway
	mostMiss   = 1.25 // of a packet that matches nothing, to no table of ours where conntrack works anyway
	mostGrowth = 1.25 // the same, of a million prefixes to a thousand
	mostLoad   = 0.5  // of loading a million prefixes, to nft -f
	mostForce  = 500 * time.Microsecond
	leastExec  = 5.0 // how much longer running nft takes to put one exposure in force
)

// hostFirewall is what conntrack is in use for anyway, under every layout.
const hostFirewall = `table inet host {
	chain input {
		type filter hook input priority 0; policy accept;
		ct state established,related accept
		ct state invalid drop
	}
}
`

// layout is one way to block prefixes, with so many of them. Elements of peers are
// addresses, as they have them; those of the others are /48.
type layout struct {
	name     string
	prefixes int
	load     func(t *testing.T, k *kernel, n int)
	cost     map[string][]float64 // of a packet, ns, by kind and run
}

// blockedAt is the i-th blocked prefix; its first address is the blocked one where a
// layout knows addresses alone.
func blockedAt(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x2a, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}), 48)
}

// afterSync is the workstation's shield when four servers of a pool have just been asked.
func afterSync() rules.Shield {
	now := mono()
	w := rules.Shield{Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: []string{"eth0"}, Hold: 15 * time.Minute,
		Allow: []rules.Service{{Proto: "tcp", Port: 22}}, Facts: rules.Facts{Near: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::/64")}}}
	for i := range 8 {
		server := netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 0xff, byte(i), 15: 1})
		us := netip.AddrPortFrom(addr(i), uint16(40000+i))
		w.Exposed = append(w.Exposed, rules.Exposed{Addr: us.Addr(), Until: now + 26*time.Hour})
		w.Solicited = append(w.Solicited, rules.Solicited{Server: netip.AddrPortFrom(server, 123), Our: us, Until: now + time.Hour})
		w.Hoods = append(w.Hoods, rules.Hood{Prefix: netip.PrefixFrom(server, 48).Masked(), Server: server, Until: now + time.Hour})
	}
	return w
}

func ourLayout(t *testing.T, k *kernel, n int) {
	s := k.open(t)
	w := afterSync()
	must(t, s.Grow(mono(), w))
	if n > 0 {
		blockTo(t, s, w, many(n, 48, true))
	}
}

// written loads a layout that is written for nft: what stands before the elements, how
// each is written, and what stands behind them.
func written(before, element, behind string) func(*testing.T, *kernel, int) {
	return func(t *testing.T, k *kernel, n int) {
		k.nft(t, elementsText(n, before, element, behind), "-f", "-")
	}
}

func elementsText(n int, before, element, behind string) string {
	var b bytes.Buffer
	b.WriteString(before)
	for i := range n {
		p := blockedAt(i)
		b.WriteString(strings.NewReplacer("PREFIX", p.String(), "ADDR", p.Addr().String()).Replace(element))
	}
	b.WriteString(behind)
	return b.String()
}

const chainHead = "chain input {\ntype filter hook input priority -10; policy accept;\n"

// Layouts of peers are rebuilt from what they document: fail2ban's action.d/nftables,
// type allports, whose sets are of intervals since 1.1; crowdsec's bouncer, whose
// elements have timeouts.
var layouts = []struct {
	name string
	load func(*testing.T, *kernel, int)
	most int
}{
	{"ntpveil", ourLayout, 1_000_000},
	{"one rule a prefix", written("table inet x {\n"+chainHead, "ip6 saddr PREFIX drop\n", "}\n}\n"), 1000},
	{"interval set", written("table inet x {\nset s {\ntype ipv6_addr\nflags interval\nelements = {\n", "PREFIX,\n", "}\n}\n"+chainHead+"ip6 saddr @s drop\n}\n}\n"), 100_000},
	{"fail2ban", written("table inet f2b-table {\nset addr6-set-x {\ntype ipv6_addr\nflags interval\nelements = {\n", "ADDR,\n",
		"}\n}\n"+strings.Replace(chainHead, "-10", "-1", 1)+"meta l4proto { tcp, udp } ip6 saddr @addr6-set-x reject\n}\n}\n"), 100_000},
	{"crowdsec", written("table ip6 crowdsec6 {\nset crowdsec6-blacklists {\ntype ipv6_addr\nflags timeout\nelements = {\n", "ADDR timeout 4h,\n",
		"}\n}\n"+chainHead+"ip6 saddr @crowdsec6-blacklists counter drop\n}\n}\n"), 1_000_000},
}

func middle[T cmp.Ordered](list []T) T {
	s := slices.Sorted(slices.Values(list))
	return s[len(s)/2]
}

// against is the median over the runs of the ratio of two costs.
func (f *layout) against(kind string, o *layout, other string) float64 {
	var out []float64
	for i, c := range f.cost[kind] {
		out = append(out, c/o.cost[other][i])
	}
	return middle(out)
}

// run measures in a host of its own, for where in memory a host's tables happen to lie
// costs as much as a rule.
func (f *layout) run(t *testing.T, bursts int) {
	if !t.Run(fmt.Sprint(f.name, " ", f.prefixes), func(t *testing.T) {
		flow := newFlow(t, *f)
		flow.measure(t, bursts) // to warm up
		for kind, c := range flow.measure(t, bursts) {
			f.cost[kind] = append(f.cost[kind], c)
		}
	}) {
		t.FailNow()
	}
}

// costs measures all layouts with some sizes, in runs that are interleaved.
func costs(t *testing.T, sizes []int, runs, bursts int) (none *layout, list []*layout) {
	none = &layout{name: "no table of ours", cost: map[string][]float64{}}
	for _, l := range layouts {
		for _, n := range sizes {
			if n <= l.most && (n > 0 || l.name == "ntpveil") {
				list = append(list, &layout{l.name, n, l.load, map[string][]float64{}})
			}
		}
	}
	for range runs {
		for _, f := range append(slices.Clone(list), none) {
			f.run(t, bursts)
		}
	}
	return none, list
}

func printCosts(t *testing.T, none *layout, list []*layout) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "layout\tprefixes\tknown, ns\tto no table\tmiss, ns\tto no table\thit, ns\tto answering")
	for _, f := range append([]*layout{none}, list...) {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.2f\t%.0f\t%.2f\t%.0f\t%.2f\n", f.name, f.prefixes, middle(f.cost["known"]), f.against("known", none, "known"),
			middle(f.cost["miss"]), f.against("miss", none, "miss"),
			middle(f.cost["hit"]), f.against("hit", none, "hit"))
	}
	w.Flush()
	t.Logf("cost of a packet\n%s", b.String())
}

// loading is how long a list takes from the file to being in force, and nft -f of the same
// set and rule, in runs that are interleaved.
func loading(t *testing.T, n, runs int) (ours, nft time.Duration) {
	text := filepath.Join(t.TempDir(), "x.nft")
	before := fmt.Sprintf("table inet x {\nset s {\ntype ipv6_addr\nsize %d\nelements = {\n", n)
	must(t, os.WriteFile(text, []byte(elementsText(n, before, "ADDR,\n", "}\n}\n"+chainHead+"ip6 saddr & ffff:ffff:ffff:: @s drop\n}\n}\n")), 0o600))
	var a, b []time.Duration
	for range runs {
		k := newKernel(t)
		s := k.open(t)
		w := wish()
		must(t, s.Grow(mono(), w))
		w.Lists = []rules.List{guardtest.WriteList(t, many(n, 48, true))}
		begun := time.Now()
		_, err := s.Block(t.Context(), mono(), w)
		must(t, err)
		a = append(a, time.Since(begun))
		begun = time.Now()
		k.exec(t, "", "-f", text)
		b = append(b, time.Since(begun))
	}
	return middle(a), middle(b)
}

// exec runs nft in the namespace, without another program to get there.
func (k *kernel) exec(t *testing.T, input string, args ...string) {
	t.Helper()
	k.in(t, func() error {
		cmd := exec.CommandContext(t.Context(), "nft", args...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft %v: %w: %.500s", args, err, out)
		}
		return nil
	})
}

// deciding is how long it takes from the wish for one exposure to its being in force, read
// back, beside n blocked prefixes; and running nft for the same elements.
func deciding(t *testing.T, n, runs int) (ours, nft time.Duration) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	must(t, s.Grow(mono(), w))
	blockTo(t, s, w, many(n, 48, true))
	var a, b []time.Duration
	for i := range runs {
		now := mono()
		us := netip.AddrPortFrom(addr(1000+i), 4000)
		w.Exposed = append(w.Exposed[:2:2], rules.Exposed{Addr: us.Addr(), Until: now + time.Hour})
		w.Solicited = append(w.Solicited[:2:2], rules.Solicited{Server: netip.MustParseAddrPort("[2001:db8:5::1]:123"), Our: us, Until: now + time.Minute})
		begun := time.Now()
		must(t, s.Grow(now, w))
		a = append(a, time.Since(begun))
		us = netip.AddrPortFrom(addr(100_000+i), 4000)
		text := fmt.Sprintf("add element inet ntpveil exposed6 { %s timeout 1h }\nadd element inet ntpveil solicited6 { 2001:db8:5::1 . 123 . %s . 4000 timeout 1m }\n", us.Addr(), us.Addr())
		begun = time.Now()
		k.exec(t, text, "-f", "-")
		b = append(b, time.Since(begun))
		must(t, s.Shrink(mono(), w)) // which reads what the other did
	}
	return middle(a), middle(b)
}

// TestBenchRules prints the tables, and fails where a promise is not kept, with
// -bench-rules. Without it a small run tries the rig: costs have the right order.
func TestBenchRules(t *testing.T) {
	largeBatches(t)
	sizes, runs, bursts, loads, large, decisions := []int{0, 1000}, 3, 8, 1, 20_000, 20
	if *benchRules {
		sizes, runs, bursts, loads, large, decisions = []int{0, 1000, 100_000, 1_000_000}, 9, 40, 3, 1_000_000, 200
	}
	none, list := costs(t, sizes, runs, bursts)
	of := func(name string, n int) *layout {
		return list[slices.IndexFunc(list, func(f *layout) bool { return f.name == name && f.prefixes == n })]
	}
	printCosts(t, none, list)
	ourLoad, nftLoad := loading(t, large, loads)
	t.Logf("%d prefixes in force: %s, nft -f %s, ratio %.2f", large, ourLoad.Round(time.Millisecond), nftLoad.Round(time.Millisecond), ourLoad.Seconds()/nftLoad.Seconds())
	ourForce, nftForce := deciding(t, large, decisions)
	t.Logf("one exposure in force beside %d prefixes: %s, by running nft %s, ratio %.1f; crowdsec's bouncer asks every 10 s",
		large, ourForce.Round(time.Microsecond), nftForce.Round(time.Microsecond), nftForce.Seconds()/ourForce.Seconds())
	if of("one rule a prefix", 1000).against("miss", of("ntpveil", 1000), "miss") < 2 {
		t.Error("a thousand rules cost no more than a look-up: nothing is measured")
	}
	if !*benchRules {
		return
	}
	most := slices.Max(sizes)
	for what, kept := range map[string]bool{
		"known beside no table":         of("ntpveil", most).against("known", none, "known") <= mostKnown,
		"a miss beside no table":        of("ntpveil", most).against("miss", none, "miss") <= mostMiss,
		"a miss of a million":           of("ntpveil", most).against("miss", of("ntpveil", 1000), "miss") <= mostGrowth,
		"a hit beside no rule":          of("ntpveil", most).against("hit", none, "hit") < 1,
		"loading beside nft -f":         ourLoad.Seconds() <= mostLoad*nftLoad.Seconds(),
		"an exposure in force":          ourForce < mostForce,
		"an exposure beside an nft run": nftForce.Seconds() >= leastExec*ourForce.Seconds(),
	} {
		if !kept {
			t.Errorf("%s: more than was promised", what)
		}
	}
}
