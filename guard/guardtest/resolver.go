package guardtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ntpveil/guard"
)

// Resolver is a model of names and their look-up (package resolve). A name that
// is not among Names does not exist; one without addresses is never answered.
type Resolver struct {
	Now   func() time.Duration
	Names map[string][]netip.Addr // IPv6 first, each once
}

// Lookup is that of the adapter.
func (m *Resolver) Lookup(ctx context.Context, job guard.Lookup) guard.Resolved {
	if a, err := netip.ParseAddr(job.Name); err == nil {
		return guard.Resolved{Key: job.Key, Addrs: []netip.Addr{a.Unmap()}}
	}
	addrs, ok := m.Names[job.Name]
	switch {
	case !ok:
		return guard.Resolved{Key: job.Key, Err: errors.New("no such name")}
	case len(addrs) == 0:
		ctx, cancel := context.WithTimeout(ctx, (job.By-m.Now())*9/10)
		defer cancel()
		<-ctx.Done()
		return guard.Resolved{Key: job.Key, Err: ctx.Err()}
	}
	return guard.Resolved{Key: job.Key, Addrs: slices.Clone(addrs)}
}

// String is one line for each name.
func (m *Resolver) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.Names)) {
		fmt.Fprintf(&b, "%s %v\n", name, m.Names[name])
	}
	return b.String()
}
