package ipaddr

import (
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard"
)

func TestGatewayIsAskedThreeTimesASecondApart(t *testing.T) {
	a := &address{Addr: guard.Addr{Meet: netip.MustParseAddr("fe80::1")}}
	start := time.Now()
	a.see(true, false)
	if a.due(start) {
		t.Fatal("asked from a tentative address")
	}
	a.see(true, true)
	for i := range solicitations {
		at := start.Add(time.Duration(i) * solicitEvery)
		if !a.due(at) || a.due(at.Add(solicitEvery-1)) || a.ready() {
			t.Fatalf("solicitation %d: not due, due twice, or ready after it", i+1)
		}
	}
	if a.due(start.Add(solicitations*solicitEvery)) || !a.ready() {
		t.Error("not ready when nobody answered")
	}
	a.see(false, false)
	if a.ready() {
		t.Error("ready, but gone")
	}
	a.see(true, true)
	if a.ready() || !a.due(start) {
		t.Error("an address that came back is not met anew")
	}
}

func TestAddressThatMeetsNobodyIsReadyAtOnce(t *testing.T) {
	a := &address{}
	a.see(true, true)
	if a.due(time.Now()) || !a.ready() {
		t.Error("waits for nobody")
	}
}

func TestOnlyTheAwaitedAdvertisementCounts(t *testing.T) {
	our, gateway, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::2")
	s := &Stack{ours: map[netip.Addr]*address{our: {Addr: guard.Addr{Addr: our, Link: 2, Meet: gateway}, here: true, usable: true}}}
	for _, ad := range []advertisement{{other, our, 2}, {gateway, other, 2}, {gateway, our, 3}} {
		if s.meet(ad) {
			t.Errorf("met by %+v", ad)
		}
	}
	if ad := (advertisement{gateway, our, 2}); !s.meet(ad) || s.meet(ad) {
		t.Error("not met, or met twice")
	}
}
