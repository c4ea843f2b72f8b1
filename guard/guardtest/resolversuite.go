package guardtest

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
)

// ResolverBench is an implementation of daemon.Resolver and its names.
type ResolverBench struct {
	Resolver daemon.Resolver
	Now      func() time.Duration
	Name     string // has the addresses 2001:db8::1 and 192.0.2.1
	Missing  string // does not exist
	Silent   string // is never answered
}

// ConformResolver is what every implementation of daemon.Resolver must do.
func ConformResolver(t *testing.T, open func(t *testing.T) ResolverBench) {
	want := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")}
	for name, test := range map[string]func(b ResolverBench) (got guard.Resolved, want []netip.Addr){
		"IPv6 first": func(b ResolverBench) (guard.Resolved, []netip.Addr) { return b.lookup(t, b.Name, 5*time.Second), want },
		"no such name": func(b ResolverBench) (guard.Resolved, []netip.Addr) {
			return b.lookup(t, b.Missing, 5*time.Second), nil
		},
		"never answered": func(b ResolverBench) (guard.Resolved, []netip.Addr) {
			by := b.Now() + 100*time.Millisecond
			got := b.lookup(t, b.Silent, 100*time.Millisecond)
			if b.Now() > by+time.Second {
				t.Errorf("it took until %s, not %s", b.Now(), by)
			}
			return got, nil
		},
		"cancelled": func(b ResolverBench) (guard.Resolved, []netip.Addr) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return b.Resolver.Lookup(ctx, guard.Lookup{Key: 7, Name: b.Silent, By: b.Now() + time.Hour}), nil
		},
		"an address": func(b ResolverBench) (guard.Resolved, []netip.Addr) {
			return b.lookup(t, "2001:db8::1", time.Second), want[:1]
		},
		"an IPv4 address in IPv6": func(b ResolverBench) (guard.Resolved, []netip.Addr) {
			return b.lookup(t, "::ffff:192.0.2.1", time.Second), want[1:]
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, want := test(open(t))
			if got.Key != 7 || !slices.Equal(got.Addrs, want) || (got.Err == nil) != (want != nil) {
				t.Errorf("%+v, want %v", got, want)
			}
		})
	}
}

func (b ResolverBench) lookup(t *testing.T, name string, within time.Duration) guard.Resolved {
	return b.Resolver.Lookup(t.Context(), guard.Lookup{Key: 7, Name: name, By: b.Now() + within})
}
