package guard

import (
	"math"
	"net/netip"
	"testing"
	"time"
)

// TestADamagedSum: a bit that flipped does not give the limits of the clock back.
func TestADamagedSum(t *testing.T) {
	w := newIdeal(t, nil)
	w.clock = ClockRecord{BootID: w.g.host.BootID, Forward: math.MaxInt64, Backward: math.MaxInt64}
	w.stepped(-900 * time.Second)
	w.start(10 * time.Minute)
	w.wantSynced("beyond the limit", false)
	if w.truth != 900*time.Second {
		t.Errorf("the clock is behind by %s", w.truth)
	}
}

// TestADamagedYear neither keeps a server from being asked for ever nor takes its
// limits away.
func TestADamagedYear(t *testing.T) {
	for _, year := range []int{1, 1026, 2926, 6026, 9999} {
		w := newIdeal(t, nil)
		var left Snapshot
		for _, s := range fourServers {
			left.Servers = append(left.Servers, ServerRecord{Addr: netip.AddrPortFrom(addr(s.Host), 123), Tokens: 1,
				TokensAt: time.Date(year, 11, 1, 0, 0, 0, 0, time.UTC)})
		}
		w.step(Restored{Ledger: left})
		w.start(0)
		for of, b := range w.g.buckets {
			if b.tokens < 0 || b.tokens > bucketBurst {
				t.Errorf("%d: the bucket of %s holds %g", year, of, b.tokens)
			}
		}
		w.run(10 * time.Minute)
		w.wantSynced("asked", true)
	}
}
