package guardtest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"ntpveil/guard"
)

// Asker is a model of exchanges (package query) with servers that follow a
// script: each gives the same answer to everyone, and others are silent.
type Asker struct {
	Now     func() time.Duration
	Servers map[netip.AddrPort]guard.Answered

	mu   sync.Mutex
	open map[netip.AddrPort]netip.AddrPort // sockets, from where to whom
}

// Ask is that of the adapter.
func (m *Asker) Ask(ctx context.Context, ask guard.Ask, answered func(guard.Answered)) {
	if err := m.bind(ask.From, ask.To); err != nil {
		answered(guard.Answered{Key: ask.Key, Err: err})
		return
	}
	defer m.release(ask.From)
	ev, ok := m.Servers[ask.To]
	if !ok {
		ev.Err = m.silence(ctx, ask.By-m.Now())
	} else if ev.Err == nil && ev.Kiss == "" {
		ev.Sample.Server, ev.Sample.At = ask.To, m.Now()
	}
	ev.Key = ask.Key
	answered(ev)
	<-ctx.Done()
}

// silence lasts until the deadline, or until the exchange is cancelled.
func (m *Asker) silence(ctx context.Context, left time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	<-ctx.Done()
	return fmt.Errorf("no answer: %w", ctx.Err())
}

func (m *Asker) bind(from, to netip.AddrPort) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, taken := m.open[from]; taken {
		return fmt.Errorf("open socket from %s: %w", from, syscall.EADDRINUSE)
	}
	if m.open == nil {
		m.open = map[netip.AddrPort]netip.AddrPort{}
	}
	m.open[from] = to
	return nil
}

func (m *Asker) release(from netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, from)
}

// String is one line for each open socket.
func (m *Asker) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, from := range slices.SortedFunc(maps.Keys(m.open), netip.AddrPort.Compare) {
		fmt.Fprintf(&b, "socket %s to %s\n", from, m.open[from])
	}
	return b.String()
}
