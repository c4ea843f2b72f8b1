package guardtest

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"ntpveil/guard"
)

// Keyer is a model of NTS key exchanges (package nts) with hosts that follow a
// script: each gives the same to everyone, and others are silent.
type Keyer struct {
	Now   func() time.Duration
	Hosts map[netip.AddrPort]guard.Keyed
}

// Key is that of the adapter.
func (m *Keyer) Key(ctx context.Context, job guard.Keying) guard.Keyed {
	ev, ok := m.Hosts[job.To]
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, job.By-m.Now())
		defer cancel()
		<-ctx.Done()
		ev.Err = fmt.Errorf("exchange keys with %s: %w", job.To, ctx.Err())
	}
	ev.Key = job.Key
	return ev
}
