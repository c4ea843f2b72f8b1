package guardtest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"ntpveil/guard"
)

// Ledger is a model of the ledger, as package ledger keeps it on disk. It forgets
// nothing by itself and prints itself as text.
type Ledger struct {
	mu        sync.Mutex
	exposures map[[2]netip.Addr]guard.ExposureRecord
	servers   map[netip.AddrPort]guard.ServerRecord
	pools     map[string]guard.PoolRecord
	clock     guard.ClockRecord
	keys      map[string]guard.NTSRecord
	rules     guard.RulesRecord
	fail      map[string]error
	told      error
	closed    bool
}

// NewLedger is a ledger that remembers nothing yet.
func NewLedger() *Ledger {
	l := &Ledger{fail: map[string]error{}}
	l.clear()
	return l
}

func (l *Ledger) clear() {
	l.exposures, l.servers = map[[2]netip.Addr]guard.ExposureRecord{}, map[netip.AddrPort]guard.ServerRecord{}
	l.pools, l.clock, l.rules, l.keys = map[string]guard.PoolRecord{}, guard.ClockRecord{}, guard.RulesRecord{}, map[string]guard.NTSRecord{}
}

// Fail makes a stage (Load or Write) fail until it is told nil.
func (l *Ledger) Fail(stage string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail[stage] = err
}

// Damage spoils what is on disk: all is forgotten, and Load tells it once.
func (l *Ledger) Damage() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clear()
	l.told = errors.New("read ledger: damaged; a fresh one was begun")
}

// Reopen is the next run of the daemon.
func (l *Ledger) Reopen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = false
}

// Close ends this run's use of it.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return nil
}

func (l *Ledger) refuse(stage string) error {
	if l.closed {
		return os.ErrClosed
	}
	return l.fail[stage]
}

// Load is what was written.
func (l *Ledger) Load() (guard.Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refuse("Load"); err != nil {
		return guard.Snapshot{}, err
	}
	told := l.told
	l.told = nil
	return l.snapshot(), told
}

func (l *Ledger) snapshot() guard.Snapshot {
	s := guard.Snapshot{
		Exposures: slices.SortedFunc(maps.Values(l.exposures), func(a, b guard.ExposureRecord) int {
			return cmp.Or(a.Addr.Compare(b.Addr), a.Server.Compare(b.Server))
		}),
		Servers: slices.SortedFunc(maps.Values(l.servers), func(a, b guard.ServerRecord) int {
			place := map[bool]int{true: 0, false: 1}
			return cmp.Or(place[a.Chosen]-place[b.Chosen], b.TokensAt.Compare(a.TokensAt), a.Addr.Compare(b.Addr))
		}),
		Pools: slices.SortedFunc(maps.Values(l.pools), func(a, b guard.PoolRecord) int { return cmp.Compare(a.Name, b.Name) }),
		Clock: l.clock,
		NTS:   slices.SortedFunc(maps.Values(l.keys), func(a, b guard.NTSRecord) int { return cmp.Compare(a.Name, b.Name) }),
		Rules: l.rules,
	}
	return s
}

// Write stores all records or, where one has no name to keep it under, none.
func (l *Ledger) Write(records []guard.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refuse("Write"); err != nil {
		return err
	}
	for _, r := range records {
		if r.Exposure != nil && !r.Exposure.Addr.IsValid() || r.Server != nil && !r.Server.Addr.IsValid() || r.Pool != nil && r.Pool.Name == "" || r.NTS != nil && r.NTS.Name == "" {
			return errors.New("write ledger: a record without a name")
		}
	}
	for _, r := range records {
		l.keep(r)
	}
	return nil
}

func (l *Ledger) keep(r guard.Record) {
	if x := r.Exposure; x != nil {
		l.exposures[[2]netip.Addr{x.Addr, x.Server}] = *x
	}
	if r.Server != nil {
		l.servers[r.Server.Addr] = *r.Server
	}
	if r.Pool != nil {
		l.pools[r.Pool.Name] = *r.Pool
	}
	if r.Clock != nil {
		l.clock = *r.Clock
	}
	if r.NTS != nil {
		l.keys[r.NTS.Name] = *r.NTS
	}
	if r.Rules != nil {
		l.rules = *r.Rules
	}
}

// Text prints what is kept, a line a row.
func (l *Ledger) Text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out strings.Builder
	s := l.snapshot()
	for _, x := range s.Exposures {
		to := "nobody"
		if x.Server.IsValid() {
			to = x.Server.String()
		}
		fmt.Fprintf(&out, "exposure %s on %s to %s, %s\n", x.Addr, x.Interface, to, x.Kind)
	}
	for _, x := range s.Servers {
		fmt.Fprintf(&out, "server %s of %q chosen=%t tokens=%.2f rate=%d\n", x.Addr, x.Pool, x.Chosen, x.Tokens, x.Rate)
	}
	for _, x := range s.Pools {
		fmt.Fprintf(&out, "pool %s\n", x.Name)
	}
	for _, x := range s.NTS {
		fmt.Fprintf(&out, "keys of %s for %s, %d cookies\n", x.Name, x.Server, len(x.Cookies))
	}
	if s.Clock != (guard.ClockRecord{}) {
		fmt.Fprintf(&out, "clock forward=%s backward=%s\n", s.Clock.Forward, s.Clock.Backward)
	}
	if s.Rules != (guard.RulesRecord{}) {
		fmt.Fprintf(&out, "rules %s in place of %s until %s\n", s.Rules.Now.Name, s.Rules.Before.Name, s.Rules.Until)
	}
	return out.String()
}
