package guardtest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"ntpveil/guard"
)

const (
	dadTakes   = 1800 * time.Millisecond // as measured
	silentFor  = 3 * time.Second         // how long a gateway that does not answer is waited for
	wholeRound = time.Second - 1
)

// Addresses is the model of the throw-away addresses in the kernel and of the
// adapter that makes them (package ipaddr). Its zero value is a link where
// nothing is wrong. Time passes with the now of its methods.
type Addresses struct {
	mu     sync.Mutex
	there  map[netip.Addr]liveAddress
	asked  map[netip.Addr]guard.Addr // of the adapter, until neither asked for nor there
	taken  map[netip.Addr]bool
	silent map[netip.Addr]bool
	err    error
	now    time.Duration
}

type liveAddress struct {
	link  int
	made  time.Duration
	until time.Duration
}

// Set is that of the adapter.
func (m *Addresses) Set(now time.Duration, want []guard.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(now)
	if m.err != nil {
		return m.err
	}
	for a := range m.asked {
		if !slices.ContainsFunc(want, func(w guard.Addr) bool { return w.Addr == a }) {
			delete(m.there, a)
			delete(m.asked, a)
		}
	}
	for _, w := range want {
		_, before := m.asked[w.Addr]
		m.asked[w.Addr] = w
		if _, there := m.there[w.Addr]; !before && !there && w.Until > now {
			m.there[w.Addr] = liveAddress{w.Link, now, now + (w.Until - now + wholeRound).Truncate(time.Second)}
		}
	}
	return nil
}

// Seen is that of the adapter.
func (m *Addresses) Seen(now time.Duration) (all []guard.Addr, ready []netip.Addr, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(now)
	if m.err != nil {
		return nil, nil, m.err
	}
	for _, a := range slices.SortedFunc(maps.Keys(m.there), netip.Addr.Compare) {
		live := m.there[a]
		all = append(all, guard.Addr{Addr: a, Link: live.link, Until: live.until, Meet: m.asked[a].Meet})
		if m.ready(a) {
			ready = append(ready, a)
		}
	}
	return all, ready, nil
}

// ready reports whether an address that was asked for is through.
func (m *Addresses) ready(a netip.Addr) bool {
	wish, asked := m.asked[a]
	wait := dadTakes
	if m.silent[wish.Meet] {
		wait += silentFor
	}
	return asked && m.now >= m.there[a].made+wait
}

// pass lets the kernel do what it does by itself.
func (m *Addresses) pass(now time.Duration) {
	if m.there == nil {
		m.there, m.asked = map[netip.Addr]liveAddress{}, map[netip.Addr]guard.Addr{}
		m.taken, m.silent = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	}
	m.now = now
	for a, live := range m.there {
		if now >= live.until || m.taken[a] && now >= live.made+dadTakes {
			delete(m.there, a)
		}
	}
}

// Put adds an address of our shape as somebody else, or an earlier run, does.
func (m *Addresses) Put(now time.Duration, a guard.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(now)
	m.there[a.Addr] = liveAddress{a.Link, now, a.Until}
}

// Vanish removes an address as somebody else does.
func (m *Addresses) Vanish(a netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.there, a)
}

// Flush removes every address of a link, as its going down does.
func (m *Addresses) Flush(link int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.there, func(_ netip.Addr, live liveAddress) bool { return live.link == link })
}

// Take gives an address to a neighbour on the link.
func (m *Addresses) Take(a netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(m.now)
	m.taken[a] = true
}

// Silence has a gateway answer nothing.
func (m *Addresses) Silence(gateway netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass(m.now)
	m.silent[gateway] = true
}

// Fail has everything fail, until it is nil.
func (m *Addresses) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// String prints what is there, a line an address.
func (m *Addresses) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	for _, a := range slices.SortedFunc(maps.Keys(m.there), netip.Addr.Compare) {
		live := m.there[a]
		fmt.Fprintf(&b, "address %s link=%d until=%s", a, live.link, live.until)
		if _, asked := m.asked[a]; !asked {
			b.WriteString(" not ours")
		} else if m.ready(a) {
			b.WriteString(" ready")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
