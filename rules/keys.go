package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"

	"ntpveil/rules/strict"
)

// presetKey is one key of a preset: how its value is set and how it is printed.
type presetKey struct {
	name string
	set  func(p *Preset, v *strict.Value) error
	get  func(p *Preset) string
}

// presetKeys is every key but extends, in the order in which they are printed.
var presetKeys = []presetKey{
	{"about", setAbout, func(p *Preset) string { return strict.Quote(p.About) }},
	count("neighbourhood.ipv4", func(p *Preset) *int { return &p.Choices.Hood4 }, 8, 32),
	count("neighbourhood.ipv6", func(p *Preset) *int { return &p.Choices.Hood6 }, 16, 128),
	{"neighbourhood.hold", setHold, func(p *Preset) string { return strict.Quote(p.Hold.String()) }},
	word("closed.to", func(p *Preset) *bool { return &p.Choices.Everyone }, words[bool]{{"neighbourhoods", false}, {"everyone", true}}),
	{"closed.action", setAction, func(p *Preset) string { return strict.Quote(p.action()) }},
	{"closed.hooks", setHooks, func(p *Preset) string { return strict.QuoteList(hookWords[p.Choices.Hooks]) }},
	list("closed.outside", func(p *Preset) *[]string { return &p.Outside }, readDevice, func(p *Preset) string { return strict.QuoteList(p.Outside) }),
	list("closed.allow", func(p *Preset) *[]Service { return &p.Allow }, ParseService, func(p *Preset) string { return quoteAll(p.Allow) }),
	yes("closed.listening", func(p *Preset) *bool { return &p.Choices.Listening }),
	list("closed.trusted", func(p *Preset) *[]netip.Prefix { return &p.Trusted }, ParsePrefix, func(p *Preset) string { return quoteAll(p.Trusted) }),
	word("ntp.inbound", func(p *Preset) *bool { return &p.Choices.Leaf }, words[bool]{{"any", false}, {"answers", true}}),
	word("learn.from", func(p *Preset) *Learn { return &p.Choices.Learn },
		words[Learn]{{"nothing", FromNothing}, {"output", FromOutput}, {"forward", FromForward}}),
	list("learn.users", func(p *Preset) *[]string { return &p.Users }, readUser, func(p *Preset) string { return strict.QuoteList(p.Users) }),
	count("learn.rate", func(p *Preset) *uint32 { return &p.Choices.LearnRate }, 1, 10000),
	count("learn.burst", func(p *Preset) *uint32 { return &p.Choices.LearnMax }, 1, 10000),
	word("log.closed", func(p *Preset) *bool { return &p.Choices.Silent }, words[bool]{{"true", false}, {"false", true}}),
	count("log.rate", func(p *Preset) *uint32 { return &p.Choices.LogRate }, 1, 100000),
	count("log.burst", func(p *Preset) *uint32 { return &p.Choices.LogBurst }, 1, 100000),
	count("log.group", func(p *Preset) *uint16 { return &p.LogGroup }, 0, 65535),
	yes("table.owner", func(p *Preset) *bool { return &p.Owner }),
}

// PresetKeys are the names of all keys of a preset.
func PresetKeys() []string {
	out := []string{"extends"}
	for _, k := range presetKeys {
		out = append(out, k.name)
	}
	return out
}

// Text is the preset as TOML with every key: it makes the same preset.
func (p Preset) Text() string {
	var b strings.Builder
	table := ""
	for _, k := range presetKeys {
		head, rest, inTable := strings.Cut(k.name, ".")
		if !inTable {
			rest = head
		} else if head != table {
			table = head
			fmt.Fprintf(&b, "\n[%s]\n", head)
		}
		fmt.Fprintf(&b, "%s = %s\n", rest, k.get(&p))
	}
	return b.String()
}

// Values are the values of every key, each as both TOML and JSON write it.
func (p Preset) Values() map[string]string {
	out := map[string]string{}
	for _, k := range presetKeys {
		out[k.name] = k.get(&p)
	}
	return out
}

func count[T int | uint16 | uint32](name string, field func(*Preset) *T, least, most int64) presetKey {
	return presetKey{name,
		func(p *Preset, v *strict.Value) error {
			if v.Kind != unstable.Integer {
				return fmt.Errorf("a whole number is wanted")
			}
			n, err := strconv.ParseInt(strings.ReplaceAll(v.Text, "_", ""), 0, 64)
			if err != nil || n < least || n > most {
				return fmt.Errorf("%s is not from %d to %d", v.Text, least, most)
			}
			*field(p) = T(n)
			return nil
		},
		func(p *Preset) string { return fmt.Sprint(*field(p)) }}
}

// words are what may be written, in the order in which it is told.
type words[T comparable] []struct {
	word  string
	value T
}

// word is one of some words; true and false are written without quotes.
func word[T comparable](name string, field func(*Preset) *T, may words[T]) presetKey {
	return presetKey{name,
		func(p *Preset, v *strict.Value) error {
			var all []string
			for _, w := range may {
				if v.Text == w.word && (v.Kind == unstable.String) == (w.word != "true" && w.word != "false") {
					*field(p) = w.value
					return nil
				}
				all = append(all, w.word)
			}
			return fmt.Errorf("one of %s is wanted", strings.Join(all, ", "))
		},
		func(p *Preset) string {
			for _, w := range may {
				if w.value != *field(p) {
					continue
				}
				if w.word == "true" || w.word == "false" {
					return w.word
				}
				return strict.Quote(w.word)
			}
			return `""`
		}}
}

func yes(name string, field func(*Preset) *bool) presetKey {
	return word(name, field, words[bool]{{"true", true}, {"false", false}})
}

// list is a list of strings, each of which is added to an empty one.
func list[T any](name string, field func(*Preset) *[]T, read func(string) (T, error), get func(*Preset) string) presetKey {
	return presetKey{name,
		func(p *Preset, v *strict.Value) error {
			all := field(p)
			*all = nil
			return strict.Each(v, func(s string) error {
				x, err := read(s)
				if err == nil {
					*all = append(*all, x)
				}
				return err
			})
		}, get}
}

func setAbout(p *Preset, v *strict.Value) error {
	if v.Kind != unstable.String || len(v.Text) > 200 || strings.ContainsFunc(v.Text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("one line of at most 200 bytes is wanted")
	}
	p.About = v.Text
	return nil
}

func setHold(p *Preset, v *strict.Value) error {
	d, err := time.ParseDuration(v.Text)
	if v.Kind != unstable.String || err != nil {
		return fmt.Errorf(`a time such as "15m" is wanted`)
	}
	if d < 0 || d > 24*time.Hour {
		return fmt.Errorf("%s is not from 0s to 24h", v.Text)
	}
	p.Hold = d
	return nil
}

// action is a word for what happens to a packet that is closed out.
func (p *Preset) action() string {
	switch {
	case !p.Mode.Drops():
		return "count"
	case p.Choices.Reject:
		return "reject"
	}
	return "drop"
}

func setAction(p *Preset, v *strict.Value) error {
	if v.Kind != unstable.String || !slices.Contains([]string{"drop", "reject", "count"}, v.Text) {
		return fmt.Errorf("one of drop, reject, count is wanted")
	}
	p.Mode, p.Choices.Reject = Enforce, v.Text == "reject"
	if v.Text == "count" {
		p.Mode = Observe
	}
	return nil
}

var hookWords = map[Hooks][]string{AtInput: {"input"}, AtForward: {"forward"}, AtBoth: {"input", "forward"}}

func setHooks(p *Preset, v *strict.Value) error {
	var items []string
	err := strict.Each(v, func(s string) error { items = append(items, s); return nil })
	if err != nil {
		return err
	}
	slices.Sort(items)
	slices.Reverse(items)
	for hooks, names := range hookWords {
		if slices.Equal(items, names) {
			p.Choices.Hooks = hooks
			return nil
		}
	}
	return fmt.Errorf(`%s is none of ["input"], ["forward"], ["input", "forward"]`, strict.QuoteList(items))
}

func readDevice(s string) (string, error) { return s, CheckDevice(s) }

// readUser takes the names that useradd makes (shadow's is_valid_user_name).
func readUser(s string) (string, error) {
	if s == "" || len(s) > 32 || strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("_-.$", c)
	}) {
		return "", fmt.Errorf("%q is no name of a user", s)
	}
	return s, nil
}

func quoteAll[T Service | netip.Prefix](list []T) string {
	var out []string
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return strict.QuoteList(out)
}
