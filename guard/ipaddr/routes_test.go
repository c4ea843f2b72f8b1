package ipaddr

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBestDefault(t *testing.T) {
	all, half := netip.MustParsePrefix("::/0"), netip.MustParsePrefix("8000::/1")
	routes := []route{
		{to: half, table: unix.RT_TABLE_MAIN, metric: 1, hops: []hop{{link: 1}}},
		{to: all, table: 100, metric: 1, hops: []hop{{link: 1}}},
		{to: all, table: unix.RT_TABLE_MAIN, metric: 1024, hops: []hop{{link: 2}}},
		{to: all, table: unix.RT_TABLE_MAIN, metric: 600, hops: []hop{{link: 3}, {link: 4}}},
		{to: all, table: unix.RT_TABLE_MAIN, metric: 2000, hops: []hop{{link: 5}}},
	}
	for link, want := range map[int]int{0: 3, 2: 2, 5: 5} {
		if r := bestDefault(routes, link); r == nil || r.hops[0].link != want {
			t.Errorf("over link %d: %+v, want that over %d", link, r, want)
		}
	}
	if r := bestDefault(routes, 1); r != nil {
		t.Errorf("over link 1: %+v", r)
	}
	if bestDefault(nil, 0).gateway().IsValid() {
		t.Error("a gateway of no route")
	}
}
