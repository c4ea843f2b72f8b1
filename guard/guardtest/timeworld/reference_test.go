package timeworld

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// TestReferenceIsLikeChrony: in worlds in which chronyd 4.3 itself was measured, in
// clknetsim (four servers, asked every 64 s, 20000 s of which the first 2000 do not
// count, ten runs), the reference errs about as much.
func TestReferenceIsLikeChrony(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		least, queue, wander float64 // s each way, s each way, s/s in a second
		chrony               float64 // s RMS
	}{
		{"LAN", 1e-4, 1e-5, 1e-9, 6.36e-6},
		{"WAN", 1e-2, 1e-3, 1e-9, 7.0e-5},
		{"WAN, calm clock", 1e-2, 1e-3, 1e-10, 5.5e-5},
		{"WAN, restless clock", 1e-2, 1e-3, 1e-8, 2.4e-4},
	} {
		p := Profile{Wander: tt.wander, build: func(_ *rand.Rand, s *server) {
			s.way = way{there: tt.least, back: tt.least, queue: tt.queue, shape: 1}
			s.rootDelay, s.rootDisp = time.Millisecond, time.Millisecond
		}}
		const length = 20000 * time.Second
		sum := 0.
		for seed := range uint64(10) {
			s := Setting{Seed: seed + 1, Profile: p, Offset: 0.03, Drift: 20}
			rms, _ := RMS(between(Replay(s, evenly(s, length), NewLike(), length), 2000*time.Second, length))
			sum += rms * rms / 10
		}
		ratio := math.Sqrt(sum) / tt.chrony
		t.Logf("%-20s %s RMS, %.2f of chronyd's", tt.name, near(math.Sqrt(sum)), ratio)
		if ratio < 0.5 || ratio > 2 {
			t.Errorf("%s: %.2f of chronyd's error is not like it", tt.name, ratio)
		}
	}
}

// evenly asks every 64 s.
func evenly(s Setting, length time.Duration) []exchange {
	var out []exchange
	for n := uint64(1); time.Duration(n)*64*time.Second < length; n++ {
		for i, srv := range makeServers(s.Seed, s.Profile, 4) {
			src := netip.AddrPortFrom(stable, uint16(40000+n))
			out = append(out, srv.meet(s.Seed, exchange{server: i, number: n, src: src, sent: time.Duration(n) * 64 * time.Second}))
		}
	}
	return out
}
