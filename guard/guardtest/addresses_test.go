package guardtest

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard"
)

func TestAddressesModelConforms(t *testing.T) {
	ConformAddresses(t, func(t *testing.T) AddressesBench {
		m := &Addresses{}
		now := time.Hour
		silent := netip.MustParseAddr("fe80::dead")
		m.Silence(silent)
		return AddressesBench{
			Addresses: m,
			Now:       func() time.Duration { return now },
			Link:      2,
			Prefix:    netip.MustParsePrefix("2001:db8:1::/64"),
			Gateway:   netip.MustParseAddr("fe80::1"),
			Silent:    silent,
			Put:       func(a guard.Addr) { m.Put(now, a) },
			Vanish:    m.Vanish,
			Take:      m.Take,
			Await: func(what string, cond func() bool) {
				t.Helper()
				for end := now + time.Minute; !cond(); now += 100 * time.Millisecond {
					if now > end {
						t.Fatalf("waited in vain: %s\n%s", what, m)
					}
				}
			},
		}
	})
}

func TestAddressesModelPrints(t *testing.T) {
	m := &Addresses{}
	ours := guard.Addr{Addr: netip.MustParseAddr("2001:db8::1"), Link: 2, Until: time.Hour}
	other := guard.Addr{Addr: netip.MustParseAddr("2001:db8::2"), Link: 3, Until: time.Hour}
	m.Put(0, other)
	if err := m.Set(0, []guard.Addr{ours}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Seen(dadTakes); err != nil {
		t.Fatal(err)
	}
	want := "address 2001:db8::1 link=2 until=1h0m0s ready\naddress 2001:db8::2 link=3 until=1h0m0s not ours\n"
	if m.String() != want {
		t.Errorf("printed\n%swant\n%s", m, want)
	}
	m.Flush(3)
	m.Fail(errors.New("no buffer space available"))
	if m.Set(0, nil) == nil {
		t.Error("a model that fails did not")
	}
	m.Fail(nil)
	if err := m.Set(0, nil); err != nil || m.String() != "" {
		t.Errorf("error %v, left\n%s", err, m)
	}
}
