package nft

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ntpveil/rules"
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
