package ledger

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ntpveil/guard"
)

// bound sets the limit of a bucket for a test.
func bound(t *testing.T, bucket string, n int) {
	old := most[bucket]
	most[bucket] = n
	t.Cleanup(func() { most[bucket] = old })
}

func load(t *testing.T, l *Ledger) guard.Snapshot {
	t.Helper()
	s, err := l.Load()
	do(t, err)
	return s
}

// TestOldestGo: above its limit a bucket loses the oldest, never what was just written.
func TestOldestGo(t *testing.T) {
	bound(t, exposures, 160)
	path := filepath.Join(quick(t), "ledger.db")
	l := open1(t, path)
	for n := 1000; n > 0; n-- { // each older than the one before
		do(t, l.Write(exposuresOf(n, n+1)))
		s := load(t, l)
		if len(s.Exposures) > 160 || len(s.Exposures) < min(1001-n, 150) {
			t.Fatalf("%d exposures", len(s.Exposures))
		}
		if s.Exposures[0].Addr != exposure(n).Exposure.Addr {
			t.Fatalf("number %d went as soon as it was written", n)
		}
		if n == 500 {
			do(t, l.Close())
			l = open1(t, path)
		}
	}
	do(t, l.Write(exposuresOf(2000, 2400)))
	if n := len(load(t, l).Exposures); n < 400 {
		t.Errorf("%d of a batch of 400 are left", n)
	}
	do(t, l.Write(exposuresOf(3000, 3001)))
	if n := len(load(t, l).Exposures); n != 150 {
		t.Errorf("%d are left, want 150", n)
	}
}

func TestServersAndPoolsAreBounded(t *testing.T) {
	bound(t, servers, 32)
	bound(t, pools, 16)
	l := open1(t, filepath.Join(quick(t), "ledger.db"))
	for n := range 100 {
		when := at.Add(time.Duration(n) * time.Minute)
		do(t, l.Write([]guard.Record{
			{Server: &guard.ServerRecord{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 123), TokensAt: when}},
			{Pool: &guard.PoolRecord{Name: fmt.Sprint("pool", n), Resolved: when}}}))
	}
	s := load(t, l)
	if len(s.Servers) > 32 || len(s.Pools) > 16 || len(s.Servers) < 30 || len(s.Pools) < 15 {
		t.Errorf("%d servers, %d pools", len(s.Servers), len(s.Pools))
	}
	for _, r := range s.Servers {
		if r.TokensAt.Before(at.Add(68 * time.Minute)) {
			t.Errorf("an old one stayed: %+v", r)
		}
	}
}

// aged is a ledger of 100 exposures that was last written at a time, and opened again.
func aged(t *testing.T, written time.Time) *Ledger {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open1(t, path)
	do(t, l.Write(exposuresOf(0, 100)))
	do(t, l.Close())
	do(t, os.Chtimes(path, written, written))
	return open1(t, path)
}

// TestForgotten: an exposure is forgotten 30 days after its guard ended, by the
// host's clock, which is not believed where it runs ahead of all that is known.
func TestForgotten(t *testing.T) {
	month := 30 * 24 * time.Hour
	for name, c := range map[string]struct {
		now, written time.Duration // after the first guard ended
		left         int
	}{
		"too early":                             {month, month, 101},
		"half of them":                          {month + 50*time.Second, month + 50*time.Second, 51},
		"all but the new one":                   {2 * month, 2 * month, 1},
		"a clock years ahead":                   {100 * month, time.Minute, 101},
		"a clock years behind":                  {-100 * month, 2 * month, 101},
		"a clock ahead, and half of them known": {100 * month, month + 49500*time.Millisecond, 51},
	} {
		t.Run(name, func(t *testing.T) {
			l := aged(t, at.Add(c.written))
			r := exposure(100)
			r.At = at.Add(c.now)
			do(t, l.Write([]guard.Record{r}))
			if n := len(load(t, l).Exposures); n != c.left {
				t.Errorf("%d are left, want %d", n, c.left)
			}
			do(t, l.Write([]guard.Record{{At: at.Add(1000 * month), Pool: &guard.PoolRecord{Name: "p"}}})) // not again on the same day
			if n := len(load(t, l).Exposures); n != c.left {
				t.Errorf("%d are left after another write, want %d", n, c.left)
			}
		})
	}
}

// BenchmarkPrune is the Write that looks for the oldest of a full ledger, once a day.
func BenchmarkPrune(b *testing.B) {
	l := open1(b, filepath.Join(b.TempDir(), "ledger.db"))
	do(b, l.Write(exposuresOf(0, 20000)))
	for b.Loop() {
		l.store.pruned = time.Time{}
		do(b, l.Write(exposuresOf(0, 1)))
	}
}
