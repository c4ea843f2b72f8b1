package guard

import (
	"net/netip"
	"testing"
)

func TestUsable(t *testing.T) {
	const (
		private     = "private address (time.allow_private permits it)"
		loopback    = "loopback address"
		linkLocal   = "link-local address"
		multicast   = "multicast address"
		unspecified = "unspecified address"
		own         = "our own address"
	)
	host := []netip.Addr{netip.MustParseAddr("2001:db8:1::10"), netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("10.0.0.10")}
	for _, tt := range []struct{ addr, want string }{
		{"2001:db8:101::1", ""}, // documentation
		{"3fff::1", ""},
		{"192.0.2.1", ""},
		{"198.51.100.1", ""},
		{"203.0.113.1", ""},
		{"2a01:4f8::1", ""},
		{"8.8.8.8", ""},
		{"223.255.255.255", ""},

		{"::", unspecified},
		{"0.0.0.0", unspecified},
		{"::1", loopback},
		{"127.0.0.1", loopback},
		{"127.255.255.254", loopback},
		{"ff02::1", multicast},
		{"ff0e::101", multicast},
		{"224.0.1.1", multicast},
		{"239.255.255.255", multicast},
		{"fe80::1", linkLocal},
		{"febf:ffff::1", linkLocal},
		{"169.254.0.1", linkLocal},
		{"0.1.2.3", "this network address"},
		{"192.0.0.1", "protocol assignments address"},
		{"240.0.0.1", "reserved address"},
		{"255.255.255.255", "reserved address"},
		{"::192.0.2.1", "IPv4-compatible address"},
		{"100::1", "discard-only address"},
		{"100:0:0:1::1", ""},
		{"fec0::1", "site-local address"},

		{"10.0.0.1", private},
		{"172.16.0.1", private},
		{"172.31.255.255", private},
		{"172.32.0.1", ""},
		{"192.168.1.1", private},
		{"100.64.0.1", private},
		{"100.127.255.255", private},
		{"100.128.0.1", ""},
		{"fc00::1", private},
		{"fd12:3456::1", private},
		{"64:ff9b:1::1", private},

		{"::ffff:192.0.2.1", ""},
		{"::ffff:127.0.0.1", loopback},
		{"::ffff:10.0.0.1", private},
		{"64:ff9b::192.0.2.1", ""},
		{"64:ff9b::127.0.0.1", loopback},
		{"64:ff9b::10.0.0.1", private},
		{"64:ff9b::224.0.0.1", multicast},
		{"64:ff9b::255.255.255.255", "reserved address"},
		{"2002:c000:201::1", ""},
		{"2002:7f00:1::1", loopback},
		{"2002:a00:1::1", private},

		{"2001:db8:1::10", own},
		{"192.0.2.10", own},
		{"10.0.0.10", own},
		{"::ffff:192.0.2.10", own},
		{"64:ff9b::192.0.2.10", own},
		{"2001:db8:1::11", ""},
	} {
		a := netip.MustParseAddr(tt.addr)
		if got := usable(a, false, host); got != tt.want {
			t.Errorf("%s: %q, want %q", a, got, tt.want)
		}
		want := tt.want
		if want == private {
			want = ""
		}
		if got := usable(a, true, host); got != want {
			t.Errorf("%s where private ones are allowed: %q, want %q", a, got, want)
		}
	}
	if got := usable(netip.Addr{}, true, nil); got != unspecified {
		t.Errorf("no address: %q", got)
	}
}
