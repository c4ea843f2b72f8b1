package nft

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ntpveil/rules"
)

// crowded is a shield with a day's exposures.
func crowded(b *testing.B, n int) (*kernel, *Shield, rules.Shield) {
	k := newKernel(b)
	s := k.open(b)
	w := wish()
	w.Exposed = nil
	for i := range n {
		w.Exposed = append(w.Exposed, rules.Exposed{Addr: addr(i), Until: mono() + 24*time.Hour})
	}
	must(b, s.Grow(mono(), w))
	return k, s, w
}

// BenchmarkExposure puts one exposure in force: address and tuple, read back.
func BenchmarkExposure(b *testing.B) {
	for _, n := range []int{10, 300, 8000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			_, s, w := crowded(b, n)
			for i := 0; b.Loop(); i++ {
				now := mono()
				w.Exposed[n-1] = rules.Exposed{Addr: addr(n + i%5000), Until: now + time.Hour}
				w.Solicited[1] = rules.Solicited{Server: w.Solicited[1].Server, Our: netip.AddrPortFrom(addr(1), uint16(1024+i%500)), Until: now + time.Minute}
				must(b, s.Grow(now, w))
			}
		})
	}
}

func BenchmarkSeen(b *testing.B) {
	for _, n := range []int{10, 300, 8000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			_, s, _ := crowded(b, n)
			for b.Loop() {
				_, err := s.Seen(mono())
				must(b, err)
			}
		})
	}
}

// BenchmarkNft is the same exposure by running nft, for comparison; it does not
// read back.
func BenchmarkNft(b *testing.B) {
	k, _, _ := crowded(b, 300)
	for i := 0; b.Loop(); i++ {
		k.nft(b, fmt.Sprintf("add element inet ntpveil exposed6 { %s timeout 1h }\nadd element inet ntpveil solicited6 { 2001:db8::1 . 123 . %s . 4000 timeout 1s }\n",
			addr(400+i%5000), addr(400+i%5000)), "-f", "-")
	}
}

// BenchmarkLoss is from somebody's removal of the table to the word of it, and on
// until it is back with 300 exposures.
func BenchmarkLoss(b *testing.B) {
	k, s, w := crowded(b, 300)
	thief := k.open(b)
	ctx, cancel := context.WithCancel(context.Background())
	told, ready, done := make(chan string), make(chan struct{}), make(chan error)
	go func() {
		done <- s.watch(ctx, func() { close(ready) }, func(culprit string) { told <- culprit })
	}()
	<-ready
	var word, back time.Duration
	for b.Loop() {
		begun := time.Now()
		must(b, thief.Shrink(mono(), rules.Shield{}))
		<-told
		word += time.Since(begun)
		must(b, s.Grow(mono(), w))
		back += time.Since(begun)
	}
	b.ReportMetric(float64(word.Microseconds())/float64(b.N), "µs/word")
	b.ReportMetric(float64(back.Microseconds())/float64(b.N), "µs/back")
	cancel()
	must(b, <-done)
}
