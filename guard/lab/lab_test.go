package lab_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/beevik/ntp"
	"net"
	"ntpveil/guard/lab"
	"time"
)

func TestHostConfiguresItself(t *testing.T) {
	for _, o := range []lab.Options{{}, {Radvd: true}} {
		began := time.Now()
		l := lab.ForTest(t, o)
		t.Log(time.Since(began))
		if !netip.MustParsePrefix("2001:db8:1::/64").Contains(l.Host.Addr6) {
			t.Errorf("%+v: host has %s", o, l.Host.Addr6)
		}
		l.Close()
	}
}

func TestStory(t *testing.T) {
	l := lab.ForTest(t, lab.Options{Servers: 3})
	addrs, err := l.Host.Resolver().LookupNetIP(t.Context(), "ip6", lab.Pool)
	if err != nil || !slices.Contains(addrs, l.Server(2).Addr6) || !slices.Contains(addrs, l.Harvester.Addr6) || len(addrs) != 4 {
		t.Fatal(addrs, err)
	}
	for _, a := range append(addrs, l.Server(1).Addr4) {
		r, err := ntp.QueryWithOptions(a.String(), ntp.QueryOptions{Dialer: func(_, remote string) (net.Conn, error) {
			return l.Host.Dial(t.Context(), "udp", remote)
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(a, r.ClockOffset, r.RTT)
	}
	out, err := l.Host.Command(t.Context(), "cat", "/etc/resolv.conf").CombinedOutput()
	if err != nil || !strings.Contains(string(out), l.DNS.Addr6.String()) {
		t.Fatal(string(out), err)
	}
}
