package guardtest

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
)

// KeyerBench is an implementation of daemon.Keyer and the world around it.
type KeyerBench struct {
	Keyer  daemon.Keyer
	Now    func() time.Duration
	From   func() netip.AddrPort // an address and a port that are free
	Name   string                // of both hosts
	Honest netip.AddrPort        // one that agrees on keys, for a server at port 123 of its own
	Silent netip.AddrPort        // one that does not answer
}

// ConformKeyer is what every implementation of daemon.Keyer must do.
func ConformKeyer(t *testing.T, open func(t *testing.T) KeyerBench) {
	for name, test := range map[string]func(t *testing.T, b KeyerBench){
		"agrees on keys": keyerAgrees, "gives up at the deadline": keyerGivesUp, "ends when it is cancelled": keyerCancelled,
		"comes too late": keyerLate,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func (b KeyerBench) key(ctx context.Context, to netip.AddrPort, within time.Duration) guard.Keyed {
	return b.Keyer.Key(ctx, guard.Keying{Key: 7, From: b.From(), To: to, Name: b.Name, By: b.Now() + within})
}

func keyerAgrees(t *testing.T, b KeyerBench) {
	ev := b.key(t.Context(), b.Honest, 5*time.Second)
	if ev.Err != nil || ev.Key != 7 || ev.Host != "" || ev.Port != 123 || ev.Keys.AEAD != 15 || len(ev.Cookies) == 0 || len(ev.Cookies) > 8 ||
		len(ev.Keys.ToServer) != 32 || len(ev.Keys.ToClient) != 32 || ev.Keys.NotAfter.Before(time.Now()) {
		t.Errorf("%+v", ev)
	}
}

func keyerGivesUp(t *testing.T, b KeyerBench) {
	by := b.Now() + 50*time.Millisecond
	if ev := b.key(t.Context(), b.Silent, 50*time.Millisecond); ev.Err == nil || ev.Key != 7 || len(ev.Cookies) > 0 || b.Now() < by {
		t.Errorf("%+v", ev)
	}
}

func keyerCancelled(t *testing.T, b KeyerBench) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan guard.Keyed)
	go func() { ended <- b.key(ctx, b.Silent, time.Hour) }()
	cancel()
	if ev := <-ended; ev.Err == nil || ev.Key != 7 {
		t.Errorf("%+v", ev)
	}
}

func keyerLate(t *testing.T, b KeyerBench) {
	if ev := b.key(t.Context(), b.Silent, -time.Second); ev.Err == nil || ev.Key != 7 {
		t.Errorf("%+v", ev)
	}
}
