package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"

	"ntpveil/guard"
	"ntpveil/rules"
	"ntpveil/rules/strict"
)

// draft is the configuration while it is read.
type draft struct {
	guard.Config
	pools    bool // written
	dhcp     bool // written
	minAgree bool // written
	lists    map[string]place
}

// key is one key: how its value is set and how it is printed.
type key struct {
	name string
	set  func(d *draft, v *strict.Value) error
	get  func(c *guard.Config) string
}

// keys is every key of the file, in the order in which they are printed.
var keys = []key{
	names("time.pools", func(d *draft) *[]string { d.pools = true; return &d.Pools }, pool),
	hosts("time.servers", func(d *draft) *[]guard.Server { return &d.Servers }, ntpPort),
	hosts("time.nts", func(d *draft) *[]guard.Server { return &d.NTS }, ntsPort),
	enum("time.dhcp", func(d *draft) *string { d.dhcp = true; return &d.DHCP }, "join", "off"),
	number("time.use", func(d *draft) *int { return &d.Use }, 1, 16),
	number("time.min_agree", func(d *draft) *int { d.minAgree = true; return &d.MinAgree }, 1, 16),
	length("time.poll.min", func(d *draft) *time.Duration { return &d.PollMin }, 16*time.Second, 36*time.Hour),
	length("time.poll.max", func(d *draft) *time.Duration { return &d.PollMax }, 16*time.Second, 36*time.Hour),
	flag("time.allow_private", func(d *draft) *bool { return &d.AllowPrivate }),
	choice("clock.mode", func(d *draft) *bool { return &d.Observe }, map[string]bool{"discipline": false, "observe": true}),
	length("clock.step.threshold", func(d *draft) *time.Duration { return &d.StepThreshold }, time.Millisecond, 24*time.Hour),
	enum("clock.step.when", func(d *draft) *string { return &d.StepWhen }, "start", "always", "never"),
	length("clock.max_change.forward", func(d *draft) *time.Duration { return &d.MaxForward }, 0, 20*365*24*time.Hour),
	length("clock.max_change.backward", func(d *draft) *time.Duration { return &d.MaxBackward }, 0, 20*365*24*time.Hour),
	enum("address.rotate", func(d *draft) *string { return &d.Rotate }, "query", "server", "off"),
	text("address.interface", func(d *draft) *string { return &d.Interface }, device),
	length("address.keep", func(d *draft) *time.Duration { return &d.Keep }, time.Minute, 24*time.Hour),
	number("address.max", func(d *draft) *int { return &d.MaxAddrs }, 1, 64),
	number("address.control", func(d *draft) *int { return &d.Control }, 0, 8),
	choice("shield.mode", func(d *draft) *rules.Mode { return &d.Shield }, map[string]rules.Mode{"enforce": rules.Enforce, "observe": rules.Observe, "off": rules.Off}),
	text("shield.preset", func(d *draft) *string { return &d.Preset }, word),
	{"shield.trusted", setTrusted, func(c *guard.Config) string { return quoteAll(c.Trusted) }},
	{"shield.allow", setAllow, func(c *guard.Config) string { return quoteAll(c.Allow) }},
	length("shield.hold", func(d *draft) *time.Duration { return &d.Hold }, 0, 24*time.Hour),
	flag("shield.owner", func(d *draft) *bool { return &d.Owner }),
	{"shield.files", setFiles, getFiles},
	number("shield.log_group", func(d *draft) *uint16 { return &d.LogGroup }, 0, 65535),
	enum("shield.if_impossible", func(d *draft) *string { return &d.IfImpossible }, "wait", "ask-stable"),
	text("ledger.path", func(d *draft) *string { return &d.Ledger }, path),
	text("control.socket", func(d *draft) *string { return &d.Socket }, path),
	notYet("metrics.listen", "metrics"),
}

// defaults is the configuration of an empty file. Servers and min_agree follow.
func defaults() draft {
	return draft{Config: guard.Config{
		DHCP: "join", Use: 4, PollMin: 64 * time.Second, PollMax: 2048 * time.Second,
		StepThreshold: 500 * time.Millisecond, StepWhen: "start", MaxForward: 1000 * time.Second, MaxBackward: 1000 * time.Second,
		Rotate: "query", Keep: 2 * time.Hour, MaxAddrs: 8, Control: 1,
		Preset: rules.DefaultPreset, IfImpossible: "wait",
		Ledger: "/var/lib/ntpveil/ledger.db", Socket: "/run/ntpveil/control.sock",
	}}
}

func aString(v *strict.Value) (string, error) {
	if v.Kind != unstable.String {
		return "", fmt.Errorf("a string is wanted")
	}
	return v.Text, nil
}

// bareName is a domain name as names are compared.
func bareName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

func text(name string, field func(*draft) *string, check func(string) error) key {
	return key{name,
		func(d *draft, v *strict.Value) error {
			s, err := aString(v)
			if err == nil {
				err = check(s)
			}
			*field(d) = s
			return err
		},
		func(c *guard.Config) string { return quote(*field(&draft{Config: *c})) }}
}

func enum(name string, field func(*draft) *string, words ...string) key {
	return text(name, field, func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		return fmt.Errorf("%q is none of %s", s, quoteList(words))
	})
}

func choice[T comparable](name string, field func(*draft) *T, words map[string]T) key {
	return key{name,
		func(d *draft, v *strict.Value) error {
			s, err := aString(v)
			if err != nil {
				return err
			}
			x, known := words[s]
			if !known {
				return fmt.Errorf("%q is none of %s", s, quoteList(sortedKeys(words)))
			}
			*field(d) = x
			return nil
		},
		func(c *guard.Config) string {
			for s, x := range words {
				if x == *field(&draft{Config: *c}) {
					return quote(s)
				}
			}
			return `""`
		}}
}

func flag(name string, field func(*draft) *bool) key {
	return key{name,
		func(d *draft, v *strict.Value) error {
			if v.Kind != unstable.Bool {
				return fmt.Errorf("true or false is wanted")
			}
			*field(d) = v.Text == "true"
			return nil
		},
		func(c *guard.Config) string { return strconv.FormatBool(*field(&draft{Config: *c})) }}
}

func number[T int | uint16](name string, field func(*draft) *T, least, most int64) key {
	return key{name,
		func(d *draft, v *strict.Value) error {
			if v.Kind != unstable.Integer {
				return fmt.Errorf("a whole number is wanted")
			}
			n, err := strconv.ParseInt(strings.ReplaceAll(v.Text, "_", ""), 0, 64)
			if err != nil || n < least || n > most {
				return fmt.Errorf("%s is not from %d to %d", v.Text, least, most)
			}
			*field(d) = T(n)
			return nil
		},
		func(c *guard.Config) string { return fmt.Sprint(*field(&draft{Config: *c})) }}
}

func length(name string, field func(*draft) *time.Duration, least, most time.Duration) key {
	return key{name,
		func(d *draft, v *strict.Value) error {
			s, err := aString(v)
			if err != nil {
				return fmt.Errorf(`a time such as "64s" is wanted`)
			}
			x, err := time.ParseDuration(s)
			switch {
			case err != nil:
				return fmt.Errorf(`%q is no time such as "64s" or "15m"`, s)
			case x < least || x > most:
				return fmt.Errorf("%s is not from %s to %s", s, least, most)
			}
			*field(d) = x
			return nil
		},
		func(c *guard.Config) string { return quote(field(&draft{Config: *c}).String()) }}
}

func names(name string, field func(*draft) *[]string, check func(string) error) key {
	return key{name,
		func(d *draft, v *strict.Value) error {
			all := field(d)
			*all = []string{}
			return strict.Each(v, func(s string) error {
				if err := check(s); err != nil {
					return err
				}
				if slices.ContainsFunc(*all, func(t string) bool { return bareName(s) == bareName(t) }) {
					return fmt.Errorf("%q stands twice", s)
				}
				*all = append(*all, s)
				return nil
			})
		},
		func(c *guard.Config) string { return quoteList(*field(&draft{Config: *c})) }}
}

// notYet is a key whose feature this version does not have: only its default
// is taken, since anything else would promise what is not done.
func notYet(name, feature string) key {
	empty := "[]"
	if name == "metrics.listen" {
		empty = `""`
	}
	return key{name,
		func(_ *draft, v *strict.Value) error {
			if v.Kind == unstable.Array && len(v.Items) == 0 && !v.Other && empty == "[]" || v.Kind == unstable.String && v.Text == "" && empty != "[]" {
				return nil
			}
			return fmt.Errorf("this version has no %s: leave it at %s", feature, empty)
		},
		func(*guard.Config) string { return empty }}
}

func setTrusted(d *draft, v *strict.Value) error {
	d.Trusted = nil
	return strict.Each(v, func(s string) error {
		p, err := rules.ParsePrefix(s)
		if err == nil {
			d.Trusted = append(d.Trusted, p)
		}
		return err
	})
}

// setFiles takes the names of lists; Load reads them.
func setFiles(d *draft, v *strict.Value) error {
	d.Lists, d.lists = nil, map[string]place{}
	for _, x := range slices.Backward(v.Items) { // a second is an error itself
		d.lists[x.Text] = x.At
	}
	return strict.Each(v, func(s string) error {
		switch {
		case !filepath.IsAbs(s) || strings.ContainsRune(s, '\n'):
			return fmt.Errorf("%q is no absolute path", s)
		case slices.ContainsFunc(d.Lists, func(l rules.List) bool { return l.Name == s }):
			return fmt.Errorf("%q stands twice", s)
		case len(d.Lists) == maxLists:
			return fmt.Errorf("at most %d files are read", maxLists)
		}
		d.Lists = append(d.Lists, rules.List{Name: s})
		return nil
	})
}

const maxLists = 64

func getFiles(c *guard.Config) string {
	var out []string
	for _, l := range c.Lists {
		out = append(out, l.Name)
	}
	return quoteList(out)
}

func setAllow(d *draft, v *strict.Value) error {
	d.Allow = nil
	return strict.Each(v, func(s string) error {
		x, err := rules.ParseService(s)
		if err == nil {
			d.Allow = append(d.Allow, x)
		}
		return err
	})
}

// hosts is a list of names or addresses, with or without a port.
func hosts(name string, field func(*draft) *[]guard.Server, port uint16) key {
	return key{name,
		func(d *draft, v *strict.Value) error {
			*field(d) = nil
			return strict.Each(v, func(s string) error {
				x, err := server(s, port)
				if err != nil {
					return err
				}
				for _, y := range *field(d) {
					if bareName(x.Host) == bareName(y.Host) && x.Port == y.Port {
						return fmt.Errorf("%q stands twice", s)
					}
				}
				*field(d) = append(*field(d), x)
				return nil
			})
		},
		func(c *guard.Config) string { return quoteHosts(*field(&draft{Config: *c})) }}
}

func quoteHosts(list []guard.Server) string {
	var out []string
	for _, s := range list {
		host := s.Host
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		out = append(out, fmt.Sprintf("%s:%d", host, s.Port))
	}
	return quoteList(out)
}
