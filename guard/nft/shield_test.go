package nft

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ntpveil/rules"
	"ntpveil/rules/strict"
)

var volatile = regexp.MustCompile(`( timeout \w+)? expires \w+|(packets|bytes) \d+`)

// TestKernelPrintsWhatTextMakes loads one value both ways, by netlink and by
// nft from its text, and compares what nft lists.
func TestKernelPrintsWhatTextMakes(t *testing.T) {
	for _, mode := range []rules.Mode{rules.Enforce, rules.Observe, rules.Disarmed} {
		t.Run(mode.String(), func(t *testing.T) {
			a, b := newKernel(t), newKernel(t)
			for _, k := range []*kernel{a, b} {
				k.device(t, "eth0")
				k.device(t, "br-1@x")
			}
			w := wish("br-1@x", "eth0")
			w.Mode = mode
			s := a.open(t)
			must(t, s.Grow(mono(), w))
			table, err := rules.Compile(w)
			must(t, err)
			b.nft(t, table.Text(mono()), "-c", "-f", "-")
			b.nft(t, table.Text(mono()), "-f", "-")
			x, y := a.list(t), b.list(t)
			if x != y {
				t.Error(firstDifference(x, y))
			}
			var js struct{ Nftables []map[string]any }
			must(t, json.Unmarshal([]byte(a.nft(t, "", "-j", "list", "table", "inet", "ntpveil")), &js))
			if len(js.Nftables) < 30 {
				t.Errorf("nft -j lists %d things", len(js.Nftables))
			}
		})
	}
}

// variants are the built-in presets, each with what the host of the test is, and
// one with everything that the language has beyond them.
func variants(t *testing.T) map[string]rules.Shield {
	t.Helper()
	mine := strict.File{Name: "mine.toml", Text: []byte(`
extends = "router"
[neighbourhood]
ipv4 = 20
ipv6 = 40
hold = "90s"
[closed]
to = "everyone"
action = "reject"
outside = ["eth0", "br-1@x"]
allow = ["tcp/22", "udp/53@eth0", "tcp/8000-8010", "udp/1-2@br-1@x", "tcp/443"]
listening = true
[ntp]
inbound = "answers"
[log]
rate = 3
burst = 7
`)}
	quiet := strict.File{Name: "quiet.toml", Text: []byte("extends = \"companion\"\n[closed]\naction = \"reject\"\n[log]\nclosed = false\n")}
	all, errs := rules.ReadPresets([]strict.File{mine, quiet})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	out := map[string]rules.Shield{}
	for name, p := range all {
		s := p.Shield(rules.Facts{
			Outside: []string{"eth0"}, Users: []rules.User{{Name: "root"}, {Name: "_chrony", ID: 105}, {Name: "far", ID: 1 << 31}},
			Own: p.Choices.Own([]netip.Prefix{netip.MustParsePrefix("2001:db8:1::5/128"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")}),
		})
		s.Owner = false // text cannot say it
		out[name] = s
	}
	return out
}

// TestEveryPresetIsWhatItsTextSays on a real kernel, put up by netlink and by nft
// from the text, bare and with something of everything.
func TestEveryPresetIsWhatItsTextSays(t *testing.T) {
	for name, bare := range variants(t) {
		full := bare
		w := wish("br-1@x", "eth0")
		full.Devices, full.Exposed, full.Solicited, full.Hoods, full.Trusted = w.Devices, w.Exposed, w.Solicited, w.Hoods, w.Trusted
		for what, s := range map[string]rules.Shield{"bare": bare, "full": full} {
			t.Run(name+" "+what, func(t *testing.T) { sameBothWays(t, s) })
		}
	}
}

func sameBothWays(t *testing.T, w rules.Shield) {
	t.Helper()
	a, b := newKernel(t), newKernel(t)
	for _, k := range []*kernel{a, b} {
		k.device(t, "eth0")
		k.device(t, "br-1@x")
	}
	s := a.open(t)
	must(t, s.Grow(mono(), w))
	table, err := rules.Compile(w)
	must(t, err)
	b.nft(t, table.Text(mono()), "-c", "-f", "-")
	b.nft(t, table.Text(mono()), "-f", "-")
	if x, y := a.list(t), b.list(t); x != y {
		t.Error(firstDifference(x, y))
	}
	got := seen(t, s)
	if got.Mode != w.Mode || got.Choices != w.Choices || got.Hold != w.Hold || !slices.Equal(got.Facts.Own, w.Facts.Own) {
		t.Errorf("seen %+v", got)
	}
	for _, table := range []*Shield{s, b.open(t)} {
		if got, err := table.Counted(mono()); err != nil || got.Mode != w.Mode || got.Preset != w.Preset {
			t.Errorf("counted: mode %s, preset %s, %v", got.Mode, got.Preset, err)
		}
	}
	before := a.list(t)
	must(t, s.Grow(mono(), w))
	must(t, s.Shrink(mono(), w))
	if after := a.list(t); after != before {
		t.Error(firstDifference(after, before))
	}
}

// TestAsMuchAsAConfigurationMaySay is taken by the kernel.
func TestAsMuchAsAConfigurationMaySay(t *testing.T) {
	k := newKernel(t)
	s, w := k.open(t), wish()
	for i := range strict.MaxItems {
		w.Allow = append(w.Allow, rules.Service{Proto: "tcp", Port: uint16(1000 + 2*i)}, rules.Service{Proto: "udp", Port: uint16(1000 + 4*i), Last: uint16(1001 + 4*i), Device: "eth0"})
		w.Trusted = append(w.Trusted, netip.PrefixFrom(addr(2*i), 128), netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 32))
	}
	must(t, s.Grow(mono(), w))
	if got := seen(t, s); len(got.Allow) != len(w.Allow) || len(got.Trusted) != len(w.Trusted) {
		t.Errorf("%d services and %d prefixes", len(got.Allow), len(got.Trusted))
	}
}

func (k *kernel) list(t testing.TB) string {
	t.Helper()
	return sortElements(volatile.ReplaceAllString(k.nft(t, "", "list", "table", "inet", "ntpveil"), ""))
}

// sortElements puts the elements of a hash set, which come in any order, into one.
func sortElements(s string) string {
	return regexp.MustCompile(`elements = \{[^}]*\}`).ReplaceAllStringFunc(s, func(list string) string {
		parts := strings.Split(strings.Trim(strings.TrimPrefix(list, "elements = "), "{ }"), ",")
		for i := range parts {
			parts[i] = strings.TrimSpace(parts[i])
		}
		slices.Sort(parts)
		return "elements = { " + strings.Join(parts, "; ") + " }"
	})
}

func firstDifference(x, y string) string {
	a, b := strings.Split(x, "\n"), strings.Split(y, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d by netlink:\n%s\nby text:\n%s", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("%d lines by netlink, %d by text", len(a), len(b))
}
