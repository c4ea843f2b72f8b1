package nts

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/lab"
	"ntpveil/guard/sysclock"
)

// hellos are what the clients of a liar say at first.
func (l *liar) hellos() func() []*tls.ClientHelloInfo {
	var mu sync.Mutex
	var all []*tls.ClientHelloInfo
	l.tls.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, h)
		return nil, nil
	}
	return func() []*tls.ClientHelloInfo {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// TestNothingLinksTwoExchanges: the tickets of a server that gives some are never
// shown, nothing is sent early, and no other version or protocol is offered.
func TestNothingLinksTwoExchanges(t *testing.T) {
	l := newLiar(t)
	hellos := l.hellos()
	k := l.keyer()
	for range 2 {
		if ev := k.Key(context.Background(), l.keying(serverName, time.Time{})); ev.Err != nil {
			t.Fatal(ev.Err)
		}
	}
	if len(hellos()) != 2 {
		t.Fatalf("%d connections", len(hellos()))
	}
	for _, h := range hellos() {
		for _, x := range []uint16{35, 41, 42, 45} { // session_ticket, pre_shared_key, early_data, psk_key_exchange_modes
			if slices.Contains(h.Extensions, x) {
				t.Errorf("extension %d is sent", x)
			}
		}
		if !slices.Equal(h.SupportedVersions, []uint16{tls.VersionTLS13}) || !slices.Equal(h.SupportedProtos, []string{alpn}) || h.ServerName != serverName {
			t.Errorf("versions %x, protocols %q, name %q", h.SupportedVersions, h.SupportedProtos, h.ServerName)
		}
	}
}

// TestAHostThatIsAnAddress: the certificate has to be of that address, by the clock
// as well as without it, and its name is not told in the clear.
func TestAHostThatIsAnAddress(t *testing.T) {
	for _, of := range []string{"127.0.0.1", "2001:db8::1"} {
		for _, floor := range []time.Time{{}, time.Now().Add(-time.Minute)} {
			l := newLiar(t)
			hellos := l.hellos()
			l.certify(lab.Certificate{Names: []string{of}})
			if ev := l.keyer().Key(context.Background(), l.keying(of, floor)); ev.Err != nil {
				t.Errorf("%s: %v", of, ev.Err)
			}
			if h := hellos(); len(h) != 1 || h[0].ServerName != "" {
				t.Errorf("%s: %d connections, the name %q", of, len(h), h[0].ServerName)
			}
			l.refused(t, l.keyer().Key(context.Background(), l.keying("127.0.0.2", floor)), "certificate is valid for "+of)
		}
	}
}

// keying is a key exchange with the liar under a name.
func (l *liar) keying(name string, floor time.Time) guard.Keying {
	return guard.Keying{Key: 7, From: netip.MustParseAddrPort("127.0.0.1:0"), To: l.ke, Name: name, By: sysclock.Mono() + 5*time.Second, Floor: floor}
}
