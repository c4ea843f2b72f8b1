package lists

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"ntpveil/rules"
)

func read(text string) ([]netip.Prefix, rules.List, error) {
	var out []netip.Prefix
	l, errs := Read("bad.txt", strings.NewReader(text), func(p netip.Prefix) { out = append(out, p) })
	if len(errs) > 0 {
		return nil, l, errs
	}
	return out, l, nil
}

// TestForms: the same prefixes in either form.
func TestForms(t *testing.T) {
	var want []netip.Prefix
	for _, s := range []string{"192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "192.0.2.0/24", "2001:db8::1/128"} {
		want = append(want, netip.MustParsePrefix(s))
	}
	for name, text := range map[string]string{
		"lines":   "# a list\n\n192.0.2.0/24\n  198.51.100.7 ; SBL1\r\n2001:db8::/32\t# ours\n192.0.2.0/24\n2001:db8::1",
		"mark":    "\xef\xbb\xbf192.0.2.0/24\n198.51.100.7\n2001:db8::/32\n192.0.2.0/24\n2001:db8::1\n",
		"misp":    `{"name": "x", "list": ["192.0.2.0/24", "198.51.100.7", "2001:db8::/32", "192.0.2.0/24", "2001:db8::1"], "type": "cidr", "matching_attributes": ["ip-src", {"a": [1, null]}], "version": 3}`,
		"escaped": "\n {\"type\":\"cidr\",\"list\":[\"192.0.2.0\\/24\",\"198.51.100.7\",\"2001:db8::/32\",\"192.0.2.0/24\",\"2001:db8::1\"]}\n",
	} {
		got, l, err := read(text)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if fmt.Sprint(l.Lengths) != "[{false 24 2} {false 32 1} {true 32 1} {true 128 1}]" || l.Prefixes() != 5 || l.Name != "bad.txt" {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if got, _, err := read("# nothing\n"); err != nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestErrors pins what an admin reads.
func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.0/24\n  192.0.2.1/24\nnonsense\n": `bad.txt:2:3: "192.0.2.1/24" has bits beyond its length: 192.0.2.0/24 is meant?` + "\n" + `bad.txt:3:1: "nonsense" is no prefix such as 2001:db8::/48`,
		"0.0.0.0/0":                       "bad.txt:1:1: 0.0.0.0/0 is everybody",
		"::/0":                            "bad.txt:1:1: ::/0 is everybody",
		"fe80::1%eth0":                    `bad.txt:1:1: "fe80::1%eth0" is no prefix such as 2001:db8::/48`,
		"::ffff:192.0.2.0/120":            `bad.txt:1:1: "::ffff:192.0.2.0/120": write it as an IPv4 prefix`,
		"::1\n" + strings.Repeat("1", 70): `bad.txt:2:1: "` + strings.Repeat("1", 64) + `…" is no prefix such as 2001:db8::/48`,
		"\x00\xff":                        `bad.txt:1:1: "\x00\xff" is no prefix such as 2001:db8::/48`,
		"1.1.1.1\n" + strings.Repeat("x", 3*maxLine) + "\n::/0": "bad.txt:2:1: the line is longer than 4096 bytes\nbad.txt:3:1: ::/0 is everybody",
		"{\n \"type\": \"hostname\",\n \"list\": []}":           `bad.txt:2:20: "type" is "hostname", and "cidr" is wanted`,
		"{\n \"list\": [\n  \"::1\",\n  \"::1/64\"]}":           `bad.txt:4:3: "::1/64" has bits beyond its length: ::/64 is meant?`,
		"{\n \"list\": [1]}":                                    "bad.txt:2:12: a prefix in quotes is wanted",
		"{\"list\": \"::1\"}":                                   `bad.txt:1:15: "list" is no list`,
		"{\"list\": [], \"list\": []}":                          `bad.txt:1:20: "list" stands twice`,
		"{\"name\": \"x\"}\n":                                   `bad.txt:1:14: there is no "list"`,
		"{\"list\": []}\n{}":                                    "bad.txt:2:2: something stands behind the end",
		"{\"list\": [\"::1\"\n \"::2\"]}":                       "bad.txt:2:2: invalid character '\"' after array element",
		"{\"list\": [\n":                                        "bad.txt:2:1: the end is missing",
		"{\"a\": " + strings.Repeat("[", 100):                   "bad.txt:1:72: it is nested too deeply",
	} {
		if got, _, err := read(text); err == nil || err.Error() != want || got != nil {
			t.Errorf("%.40q:\n%v\nwant\n%s", text, err, want)
		}
	}
}

// TestErrorsAreBounded, and so is what is read.
func TestErrorsAreBounded(t *testing.T) {
	_, _, err := read(strings.Repeat("x\n", 1000))
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != maxErrors {
		t.Errorf("%d errors", n)
	}
	if _, errs := Read("x", iotest.ErrReader(io.ErrNoProgress), nil); len(errs) != 1 || errs[0].Error() != "x: read list: "+io.ErrNoProgress.Error() {
		t.Errorf("%v", errs)
	}
	if _, errs := Read("x", endless("::1\n"), func(netip.Prefix) {}); len(errs) != 1 || !strings.Contains(errs[0].Text, "more than 2097152 prefixes") {
		t.Errorf("%v", errs)
	}
	if _, errs := Read("x", endless("#"+strings.Repeat(" ", 1000)+"\n"), func(netip.Prefix) {}); len(errs) != 1 || errs[0].Text != "it is larger than 96 MiB" {
		t.Errorf("%v", errs)
	}
}

// cycle is a text that never ends.
type cycle struct {
	text string
	at   int
}

func endless(text string) io.Reader { return &cycle{text: text} }

func (c *cycle) Read(b []byte) (int, error) {
	for n := 0; n < len(b); {
		k := copy(b[n:], c.text[c.at:])
		n, c.at = n+k, (c.at+k)%len(c.text)
	}
	return len(b), nil
}

// keys is an object of ever other keys.
type keys struct {
	n    int
	rest []byte
}

func (k *keys) Read(b []byte) (int, error) {
	if len(k.rest) == 0 {
		k.rest = fmt.Appendf(nil, "%q:1,\n", fmt.Sprintf("%07d", k.n))
		k.n++
	}
	n := copy(b, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}

// TestMemoryIsBounded whatever stands in the file.
func TestMemoryIsBounded(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"a string":     io.MultiReader(strings.NewReader(`{"name": "`), endless("xxxx")),
		"spaces":       io.MultiReader(strings.NewReader(`{"list": [`), endless("   \n")),
		"objects":      io.MultiReader(strings.NewReader(`{"name": [`), io.LimitReader(endless("{},\n"), 8<<20)),
		"a long line":  endless(strings.Repeat("x", 4096)),
		"keys":         io.MultiReader(strings.NewReader("{"), io.LimitReader(&keys{}, 8<<20)),
		"the prefixes": io.MultiReader(strings.NewReader(`{"list": [`), endless(`"::1", `)),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, errs := Read("x", r, func(netip.Prefix) {})
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapSys) - int64(before.HeapSys); len(errs) == 0 || grown > 32<<20 {
			t.Errorf("%s: %d bytes of heap more, %v", name, grown, errs)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"192.0.2.0/24\n#x\n::1 ; y\n", `{"type":"cidr","list":["::1","192.0.2.0\/24"],"x":[{}]}`, "{\"list\":[\"::1/1\"\n", "\xef\xbb\xbf{", "{\"type\":3"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got []netip.Prefix
		l, errs := Read("f", bytes.NewReader(text), func(p netip.Prefix) { got = append(got, p) })
		for _, e := range errs {
			if e.Text == "" || e.Line > bytes.Count(text, []byte("\n"))+1 || e.Column > len(text)+1 || e.Line < 0 || e.Line > 0 && e.Column < 1 {
				t.Errorf("%v is outside the file", e)
			}
		}
		if len(errs) > 0 {
			if l.Lengths != nil {
				t.Error("refused and taken")
			}
			return
		}
		if l.Prefixes() != len(got) {
			t.Errorf("%d prefixes, %d were told", l.Prefixes(), len(got))
		}
		var lines bytes.Buffer
		var texts []string
		for _, p := range got {
			if !p.IsValid() || p != p.Masked() || p.Bits() == 0 {
				t.Errorf("bad prefix %v", p)
			}
			fmt.Fprintln(&lines, p)
			texts = append(texts, p.String())
		}
		same(t, &lines, got)
		b, err := json.Marshal(map[string]any{"type": "cidr", "list": append([]string{}, texts...)})
		if err != nil {
			t.Fatal(err)
		}
		same(t, bytes.NewReader(b), got)
	})
}

// same reads a list and compares.
func same(t *testing.T, r io.Reader, want []netip.Prefix) {
	t.Helper()
	var got []netip.Prefix
	if _, errs := Read("again", r, func(p netip.Prefix) { got = append(got, p) }); len(errs) > 0 || !slices.Equal(got, want) {
		t.Errorf("again %v, %v, want %v", got, errors.Join(errs), want)
	}
}

func BenchmarkRead(b *testing.B) {
	var text bytes.Buffer
	for i := range 1 << 20 {
		fmt.Fprintf(&text, "%s/48\n", netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 16), byte(i >> 8), byte(i), 9}))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, errs := Read("x", bytes.NewReader(text.Bytes()), func(netip.Prefix) {}); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}
