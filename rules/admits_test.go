package rules

import (
	"net/netip"
	"testing"
)

func TestAdmits(t *testing.T) {
	all, errs := ReadPresets(nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	far := "198.51.100.7"
	for _, tt := range []struct {
		preset, from, device string
		port                 uint16
		change               func(*Shield)
		want                 bool
	}{
		{"lockdown", far, "eth0", 22, nil, true}, // allowed
		{"lockdown", far, "eth0", 2222, nil, false},
		{"lockdown", "::ffff:198.51.100.7", "eth0", 2222, nil, false},
		{"lockdown", "fe80::1%eth0", "eth0", 2222, nil, false}, // a perimeter is one towards the link, too
		{"lockdown", "127.0.0.1", "lo", 2222, nil, true},
		{"lockdown", far, "eth0", 2222, func(s *Shield) { s.Trusted = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }, true},
		{"lockdown", far, "eth0", 2222, func(s *Shield) { s.Allow = []Service{{Proto: "udp", Port: 2222}} }, false},
		{"lockdown", far, "eth0", 2222, func(s *Shield) { s.Allow = []Service{{Proto: "tcp", Port: 2000, Last: 3000, Device: "eth0"}} }, true},
		{"lockdown", far, "", 2222, func(s *Shield) { s.Allow = []Service{{Proto: "tcp", Port: 2000, Last: 3000, Device: "eth0"}} }, false},
		{"lockdown", far, "eth0", 2222, func(s *Shield) { s.Mode = Observe }, true},
		{"workstation", far, "eth0", 2222, nil, true},
		{"workstation", far, "eth0", 2222, func(s *Shield) { s.Hoods = []Hood{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}} }, false},
		{"workstation", "fe80::1%eth0", "eth0", 2222, nil, true},
		{"server", far, "eth0", 2222, func(s *Shield) { s.Hoods = []Hood{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}} }, true}, // somebody listens
	} {
		s := all[tt.preset].Shield(Facts{})
		if tt.change != nil {
			tt.change(&s)
		}
		if got := s.Admits(netip.MustParseAddr(tt.from), tt.device, "tcp", tt.port); got != tt.want {
			t.Errorf("%s, from %s by %q to tcp/%d: %t", tt.preset, tt.from, tt.device, tt.port, got)
		}
	}
}

// TestPresetTextIsRead: what is kept of a preset makes the same one, whatever files
// say by then.
func TestPresetTextIsRead(t *testing.T) {
	all, _ := ReadPresets(nil)
	for name, p := range all {
		got, err := ParsePreset(name, p.Text())
		if err != nil || got.Text() != p.Text() || got.Mode != p.Mode || got.Name != name {
			t.Errorf("%s: %v\n%s", name, err, got.Text())
		}
	}
	if _, err := ParsePreset("x", "[closed]\naction = \"dance\"\n"); err == nil {
		t.Error("nonsense is taken")
	}
}
