package main

import (
	"strings"
	"testing"
)

func TestDifference(t *testing.T) {
	lines := func(words string) []string {
		var out []string
		for _, w := range strings.Fields(words) {
			out = append(out, w+"\n")
		}
		return out
	}
	for _, tt := range []struct{ before, after, want string }{
		{"a b c", "a b c", ""},
		{"", "", ""},
		{"", "a b", "+a +b"},
		{"a b", "", "-a -b"},
		{"a b c d e f g h", "a b c x e f g h", "a_ b_ c_ -d +x e_ f_ g_ …"},
		{"1 2 3 4 5 6 7 8 9 0 a b", "2 3 4 5 6 7 8 9 0 a b c", "-1 2_ 3_ 4_ … 0_ a_ b_ +c"},
	} {
		got := difference(lines(tt.before), lines(tt.after))
		var words []string
		for line := range strings.Lines(got) {
			line = strings.TrimSuffix(line, "\n")
			if rest, same := strings.CutPrefix(line, " "); same {
				line = rest + "_"
			}
			words = append(words, line)
		}
		if got := strings.Join(words, " "); got != tt.want {
			t.Errorf("%s to %s: %s, want %s", tt.before, tt.after, got, tt.want)
		}
	}
}

// TestLasting: what nft lists of elements that run out is left out, on however many
// lines, and nothing else.
func TestLasting(t *testing.T) {
	const listed = `table inet ntpveil {
	set exposed6 {
		type ipv6_addr
		flags timeout
		elements = { 2001:db8::1 timeout 1d expires 5h,
			     2001:db8::2 timeout 1d expires 5h }
	}

	set limits6 {
		flags dynamic,timeout
		elements = { 2001:db8::1 limit rate 10/second burst 20 packets }
	}

	set trusted4 {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8,
			     11.0.0.0/8 }
	}
}
`
	const want = `table inet ntpveil {
	set exposed6 {
		type ipv6_addr
		flags timeout
	}

	set limits6 {
		flags dynamic,timeout
	}

	set trusted4 {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8,
			     11.0.0.0/8 }
	}
}
`
	if got := lasting(listed); got != want {
		t.Errorf("%s", got)
	}
}

func TestDevicesComeBack(t *testing.T) {
	const text = "\tchain ingress_eth0 {\n\t\ttype filter hook ingress device \"eth0\" priority -500; policy accept;\n\t\taccept\n\t}\n\tchain closed {\n\t\tdrop\n\t}\n"
	rest, hooks := withoutDevices(text)
	if strings.Contains(rest, "eth0\"") || withDevices(rest, hooks) != text {
		t.Errorf("without: %s\nwith: %s", rest, withDevices(rest, hooks))
	}
}
