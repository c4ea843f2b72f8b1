package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ntpveil/guard"
	"ntpveil/rules"
	"ntpveil/rules/strict"
)

const (
	ntpPort = 123
	ntsPort = 4460 // of key exchanges (RFC 8915 section 6.1)
)

// name checks a domain name (RFC 1123 section 2.1).
func name(s string) error {
	bad := fmt.Errorf("%q is no domain name", s)
	plain := strings.TrimSuffix(s, ".")
	if plain == "" || len(plain) > 253 {
		return bad
	}
	for _, label := range strings.Split(plain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return bad
		}
		for _, c := range label {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return bad
			}
		}
	}
	return nil
}

// pool checks the name of a pool.
func pool(s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return fmt.Errorf("%q is an address, which is one server: it belongs under time.servers", s)
	}
	return name(s)
}

// server reads a name or an address, with or without a port.
func server(s string, usual uint16) (guard.Server, error) {
	host, port := s, uint64(usual)
	if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" {
		if h, p, err := net.SplitHostPort(s); err == nil {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				return guard.Server{}, fmt.Errorf("%q: the port is not from 1 to 65535", s)
			}
			host, port = h, n
		}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return guard.Server{}, fmt.Errorf("%q cannot be a server", s)
		}
		return guard.Server{Host: a.Unmap().String(), Port: uint16(port)}, nil
	}
	if err := name(host); err != nil {
		return guard.Server{}, fmt.Errorf("%q is no server such as ntp.example.net, ntp.example.net:%d or [2001:db8::1]:%d", s, usual, usual)
	}
	return guard.Server{Host: host, Port: uint16(port)}, nil
}

// device checks the name of an interface; none means that of the default route.
func device(s string) error {
	if s == "" {
		return nil
	}
	return rules.CheckDevice(s)
}

// word lets everything through: what it may be is not known yet.
func word(string) error { return nil }

// choose takes from the preset what [shield] does not say.
func (d *draft) choose(known rules.Presets, written map[string]place, at func(key string) place) Errors {
	p, ok := known[d.Preset]
	switch {
	case !ok:
		return Errors{at("shield.preset").Errorf("shield.preset: %q is none of %s", d.Preset, quoteList(sortedKeys(known)))}
	case p.Choices.Learn == rules.FromOutput:
		return Errors{at("shield.preset").Errorf("shield.preset: %q is for hosts without this daemon: ntpveil-companion.service loads it", d.Preset)}
	}
	d.Choices, d.Outside, d.Plain = p.Choices, p.Outside, p
	for key, take := range map[string]func(){
		"shield.mode":      func() { d.Shield = p.Mode },
		"shield.trusted":   func() { d.Trusted = p.Trusted },
		"shield.allow":     func() { d.Allow = p.Allow },
		"shield.hold":      func() { d.Hold = p.Hold },
		"shield.owner":     func() { d.Owner = p.Owner },
		"shield.log_group": func() { d.LogGroup = p.LogGroup },
	} {
		if _, set := written[key]; !set {
			take()
		}
	}
	d.Written = saidOf(written)
	return nil
}

func saidOf(written map[string]place) guard.Written {
	said := func(key string) bool { _, set := written["shield."+key]; return set }
	return guard.Written{Mode: said("mode"), Hold: said("hold"), Allow: said("allow"), Trusted: said("trusted"), Owner: said("owner"), LogGroup: said("log_group")}
}

// path checks where a file of ours may be. As root we would replace what is
// there: nothing below /dev, /proc or /sys is a place for it.
func path(s string) error {
	switch {
	case !filepath.IsAbs(s) || strings.ContainsRune(s, '\n'):
		return fmt.Errorf("%q is no absolute path", s)
	case filepath.Clean(s) == "/" || strings.HasSuffix(s, "/"):
		return fmt.Errorf("%q is a directory, and a file is wanted", s)
	case len(s) > 100:
		return fmt.Errorf("%q is longer than 100 bytes, which a socket cannot be", s)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if c := filepath.Clean(s); c == dir || strings.HasPrefix(c, dir+"/") {
			return fmt.Errorf("%q is below %s, where no file of ours belongs", s, dir)
		}
	}
	return nil
}

// whole checks what no key can say alone, and fills in what follows from others.
// Of tables that have errors of their own it says nothing.
func (d *draft) whole(at func(key string) place, right func(table string) bool) (errs Errors) {
	if right("address") && d.Control > d.MaxAddrs {
		errs = append(errs, at("address.control").Errorf("address.control: %d is above address.max, %d", d.Control, d.MaxAddrs))
	}
	if right("ledger") && right("control") && filepath.Clean(d.Ledger) == filepath.Clean(d.Socket) {
		errs = append(errs, at("control.socket").Errorf("control.socket: %q is ledger.path, too", d.Socket))
	}
	if right("time") {
		errs = append(errs, d.time(at)...)
	}
	return errs
}

func (d *draft) time(at func(key string) place) (errs Errors) {
	if d.PollMin > d.PollMax {
		errs = append(errs, at("time.poll.min").Errorf("time.poll.min: %s is above time.poll.max, %s", d.PollMin, d.PollMax))
	}
	if len(d.Servers) > 0 {
		d.Pools = nil // pools are not asked then
	} else if len(d.Pools)+len(d.NTS) == 0 && DefaultPool != "" && !d.pools {
		d.Pools = []string{DefaultPool}
	}
	if len(d.Pools)+len(d.Servers)+len(d.NTS) == 0 && !(d.pools && d.dhcp && d.DHCP == "join") { // on purpose: those that the network names, alone
		return append(errs, at("time.pools").Errorf("%s: write servers = [\"ntp.example.net\"], or pools = [\"2.VENDOR.pool.ntp.org\"] of a vendor zone that is yours, under [time]", noServer()))
	}
	if len(d.Pools) > 0 && d.PollMin < poolPoll {
		errs = append(errs, at("time.poll.min").Errorf("time.poll.min: %s is below %s, which a pool's servers are owed", d.PollMin, poolPoll))
	}
	return append(errs, d.agree(at)...)
}

func noServer() string {
	if DefaultPool != "" {
		return fmt.Sprintf("no server is configured, and time.pools is written, so that the default pool %s does not hold", DefaultPool)
	}
	return "no server is configured, and this build has no default pool"
}

// agree fills in time.min_agree, or checks that it can be met.
func (d *draft) agree(at func(key string) place) Errors {
	named := len(d.Servers) + len(d.NTS)
	had := max(named, d.Use)
	few := named > 0 && len(d.Pools) == 0 // nobody fills the places up
	if few {
		had = named
	}
	switch {
	case !d.minAgree && few:
		d.MinAgree = min(3, had)
	case !d.minAgree:
		d.MinAgree = 3
		if had < 3 {
			return Errors{at("time.use").Errorf("time.use: %d servers can never be the 3 that have to agree; time.min_agree = %d permits fewer", had, had)}
		}
	case d.MinAgree > had:
		return Errors{at("time.min_agree").Errorf("time.min_agree: %d can never be met, %d servers are to be had", d.MinAgree, had)}
	}
	return nil
}

var quote, quoteList = strict.Quote, strict.QuoteList

func quoteAll[T fmt.Stringer](list []T) string {
	var out []string
	for _, x := range list {
		out = append(out, x.String())
	}
	return quoteList(out)
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
