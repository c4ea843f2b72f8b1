package lab_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// soon bounds what is awaited in a test.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestHostConfiguresItself(t *testing.T) {
	for name, o := range map[string]lab.Options{"own advertiser": {}, "radvd": {Radvd: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, o)
			if want := netip.MustParsePrefix("2001:db8:1::/64"); !want.Contains(l.Host.Addr6) {
				t.Errorf("host has %s, want it in %s", l.Host.Addr6, want)
			}
			addrs, err := l.Host.Netlink().AddrList(nil, netlink.FAMILY_V6)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(l.Host.Addr6.AsSlice()) })
			if i < 0 || addrs[i].Flags&(unix.IFA_F_PERMANENT|unix.IFA_F_TENTATIVE|unix.IFA_F_NODAD) != 0 || addrs[i].ValidLft < 1 {
				t.Errorf("not an autoconfigured address that was checked: %+v", addrs)
			}
			if len(addrs) != 3 { // ::1 and link-local
				t.Errorf("more than one global address: %v", addrs)
			}
			if out, err := l.Host.Command(t.Context(), "cat", "/proc/sys/net/ipv6/conf/eth0/router_solicitation_delay").Output(); string(out) != "1\n" {
				t.Errorf("later duplicate checks are not as elsewhere: delay %q, %v", out, err)
			}
		})
	}
}

func TestAdvertisementMayChange(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{})
	updates, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	defer close(done)
	if err := l.Host.Do(func() error { return netlink.AddrSubscribe(updates, done) }); err != nil {
		t.Fatal(err)
	}
	old := lab.Advertisement{Prefix: l.Host.Net6, Valid: 3 * time.Hour, Router: time.Hour} // no longer preferred
	if err := l.Advertise(old); err != nil {
		t.Fatal(err)
	}
	for ctx := soon(t); ; {
		select {
		case u := <-updates:
			if u.LinkAddress.IP.Equal(l.Host.Addr6.AsSlice()) && u.Flags&unix.IFA_F_DEPRECATED != 0 {
				return
			}
		case <-ctx.Done():
			t.Fatal("the address is still preferred")
		}
	}
}

func TestNamesAndTheirChanges(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Servers: 2})
	lookup := func(network, name string) []netip.Addr {
		t.Helper()
		addrs, err := l.Host.Resolver().LookupNetIP(soon(t), network, name)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		return addrs
	}
	if got, want := lookup("ip6", lab.Pool), []netip.Addr{l.Server(1).Addr6, l.Server(2).Addr6, l.Harvester.Addr6}; !slices.Equal(got, want) {
		t.Errorf("pool has %v, want %v", got, want)
	}
	if got, want := lookup("ip4", "s2.pool.example"), []netip.Addr{l.Server(2).Addr4}; !slices.Equal(got, want) {
		t.Errorf("s2 has %v, want %v", got, want)
	}
	l.DNS.Set(lab.Pool, l.Server(2).Addr6)
	if got, want := lookup("ip6", lab.Pool), []netip.Addr{l.Server(2).Addr6}; !slices.Equal(got, want) {
		t.Errorf("pool has %v after the change, want %v", got, want)
	}
	l.DNS.Remove(lab.Pool)
	if _, err := l.Host.Resolver().LookupNetIP(soon(t), "ip6", lab.Pool); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("removed name: %v", err)
	}
	if asked := l.DNS.Asked(); !slices.Contains(asked, "AAAA "+lab.Pool) || !slices.Contains(asked, "A s2.pool.example") {
		t.Errorf("asked: %q", asked)
	}
	l.DNS.Silence(true)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if addrs, err := l.Host.Resolver().LookupNetIP(short, "ip6", "s1.pool.example"); err == nil {
		t.Errorf("a silent server answered %v", addrs)
	}
}

func TestEveryNodeReachesEveryOther(t *testing.T) {
	t.Parallel()
	l := lab.ForTest(t, lab.Options{Servers: 5})
	extra, err := l.Add("extra")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Host.Serve([]uint16{80}, nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*lab.Node{extra, l.Visitor, l.Scanner, l.DNS.Node, l.Harvester.Node, l.Server(5).Node} {
		for _, target := range []netip.Addr{l.Host.Addr6, l.Host.Addr4} {
			r, err := n.Scan(soon(t), lab.Scan{Target: target, TCP: []uint16{80}, Wait: 5 * time.Second})
			if err != nil || len(r.In(lab.Open)) != 1 {
				t.Errorf("from %s: %v, %v", n, r, err)
			}
		}
	}
}
