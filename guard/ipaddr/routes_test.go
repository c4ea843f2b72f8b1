package ipaddr

import (
	"net/netip"
	"testing"
)

// TestRoutesThatTellNothingAreNotKept: the table of a router of the internet has
// a million routes by a few gateways.
func TestRoutesThatTellNothingAreNotKept(t *testing.T) {
	var kept telling
	add := func(to string, hops ...hop) { kept.add(route{netip.MustParsePrefix(to), hops}) }
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	for range 1000 {
		add("0.0.0.0/0", hop{2, a})
		add("20.0.0.0/24", hop{2, a}, hop{2, b})
		add("20.0.1.0/24", hop{2, b})
	}
	add("224.0.0.0/4", hop{link: 2})
	add("203.0.113.0/24", hop{link: 2})
	add("20.0.2.0/24", hop{2, a}, hop{link: 3})
	add("20.0.3.0/24", hop{3, c})
	f := facts{routes4: kept.routes}
	if len(kept.routes) != 5 {
		t.Errorf("kept: %v", kept.routes)
	}
	if g := f.gateways(); len(g) != 3 || g[0] != a || g[1] != b || g[2] != c {
		t.Errorf("gateways %v", g)
	}
	if p := f.onLink(); len(p) != 2 || p[0].String() != "20.0.2.0/24" || p[1].String() != "203.0.113.0/24" {
		t.Errorf("on link: %v", p)
	}
}

func TestGatewaysAreBounded(t *testing.T) {
	var kept telling
	a := netip.MustParseAddr("192.0.2.1")
	for range 3 * maxGateways {
		kept.add(route{netip.MustParsePrefix("20.0.0.0/24"), []hop{{2, a}}})
		a = a.Next()
	}
	if n := len(kept.routes); n < maxGateways || n > maxGateways+1 {
		t.Errorf("%d routes are kept", len(kept.routes))
	}
}
