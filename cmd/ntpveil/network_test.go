package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/lab"
)

// A throw-away address does not outlive the network it was made for: it goes, and
// its guard stays, when programs would begin to use it, when the link's prefix is
// another one, and when packets leave by another link.
func TestAddressesGoWithTheirNetwork(t *testing.T) {
	for name, c := range map[string]struct{ commands, reason string }{
		"no preferred address left": {"addr change STABLE/64 dev eth0 valid_lft 1000 preferred_lft 0", "there is no preferred global IPv6 address"},
		"another prefix":            {"addr add 2001:db8:77::10/64 dev eth0 nodad; addr del STABLE/64 dev eth0", ""},
		"a VPN for everything": {`link add tun0 type veth peer name far0; link set tun0 arp off addrgenmode none up; link set far0 addrgenmode none up;
			addr add 2001:db8:99::2/128 dev tun0 nodad; -6 route add ::/1 dev tun0; -6 route add 8000::/1 dev tun0`, "tun0 is a tunnel"},
	} {
		t.Run(name, func(t *testing.T) {
			h := install(t, lab.Options{Servers: 4}, basics)
			h.hurry()
			s := h.start()
			h.synced(10 * time.Second)
			made := h.throwAways()
			if len(made) < 5 {
				t.Fatalf("%d throw-away addresses while it runs", len(made))
			}
			if err := h.lab.Host.Sysctl("ipv6/conf/eth0/accept_ra_pinfo", "0"); err != nil {
				t.Fatal(err)
			}
			for _, command := range strings.Split(strings.ReplaceAll(c.commands, "STABLE", h.lab.Host.Addr6.String()), ";") {
				if out, err := h.lab.Host.Command(context.Background(), "ip", strings.Fields(command)...).CombinedOutput(); err != nil {
					t.Fatalf("ip %s: %v: %s", command, err, out)
				}
			}
			h.own[netip.MustParseAddr("2001:db8:77::10")], h.own[netip.MustParseAddr("2001:db8:99::2")] = true, true
			began := time.Now()
			for _, a := range made {
				h.gone(a.String(), began.Add(2*time.Second))
			}
			t.Logf("%d addresses went within %s", len(made), time.Since(began).Round(time.Millisecond))
			guarded, err := h.set("exposed6")
			for _, a := range made {
				if err != nil || guarded[a.String()].Expires <= 0 {
					t.Errorf("%s is not guarded any more (%v)", a, err)
				}
			}
			if c.reason != "" {
				why := ""
				for _, w := range h.status().Weaknesses {
					why += w.Text + "\n"
				}
				if !strings.Contains(why, c.reason) {
					t.Errorf("status does not say that %s:\n%s", c.reason, why)
				}
			}
			s.stop()
		})
	}
}

// gone waits until the kernel has an address no more.
func (h *host) gone(addr string, by time.Time) {
	h.Helper()
	for {
		here := false
		for _, a := range h.addresses() {
			here = here || a.String() == addr
		}
		switch {
		case !here:
			return
		case time.Now().After(by):
			h.Fatalf("%s is still there", addr)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The interface that is configured is the one that queries leave by, whatever
// the default route says: the throw-away address belongs to it, and its router
// alone was met.
func TestConfiguredInterface(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, "")
	var servers []string
	for _, s := range h.lab.Servers {
		servers = append(servers, fmt.Sprintf("%q", s.Addr6))
	}
	h.configure("[time]\nservers = [" + strings.Join(servers, ", ") + "]\n[address]\ninterface = \"eth0\"\n")
	h.hurry()
	for _, command := range []string{"link add wan0 type veth peer name far0", "link set wan0 addrgenmode none up", "link set far0 addrgenmode none up",
		"addr add 2001:db8:99::10/64 dev wan0 nodad", "-6 neigh add 2001:db8:99::1 lladdr 02:00:00:00:00:01 dev wan0 nud permanent",
		"-6 route add default via 2001:db8:99::1 dev wan0 metric 1"} {
		if out, err := h.lab.Host.Command(context.Background(), "ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, out)
		}
	}
	h.own[netip.MustParseAddr("2001:db8:99::10")] = true
	s := h.start()
	h.synced(10 * time.Second)
	if made := h.throwAways(); len(made) < 4 {
		t.Errorf("made %v", made)
	}
	s.stop()
}
