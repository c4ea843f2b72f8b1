package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ntpveil/guard"
	"ntpveil/guard/lab"
)

// Servers that the network names, by systemd-networkd and by a hook, are asked, and
// used alone where no other answers; when it names them no more they are gone.
func TestServersThatTheNetworkNames(t *testing.T) {
	h := install(t, lab.Options{Servers: 3}, "[time]\npools = [\""+lab.Pool+"\"]\nuse = 3\n")
	h.hurry()
	h.run = h.path("run")
	leased, dropped, pool := h.lab.Server(1), h.lab.Server(2), h.lab.Server(3)
	files := map[string]string{ // the first as systemd-networkd 252 writes it
		fmt.Sprintf("systemd/netif/links/%d", h.lab.Host.Link.Index): "# This is private data. Do not parse.\nADMIN_STATE=configured\nDNS=\nNTP=" + leased.Addr4.String() + " ntp.example.org\nSIP=\n",
		"ntpveil-dhcp/eth0.servers":                                  dropped.Addr6.String() + "\n",
	}
	for name, text := range files {
		path := filepath.Join(h.run, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.lab.DNS.Set(lab.Pool, pool.Addr6, h.lab.Harvester.Addr6)
	for _, s := range []*lab.Server{pool, h.lab.Harvester.Server} {
		s.Answer(lab.Silent())
	}
	s := h.start()
	status := h.synced(20 * time.Second)
	for _, a := range []netip.Addr{leased.Addr4, dropped.Addr6} {
		if line := lineOf(status, a); line.State != "selected" || line.Name != "dhcp" || line.Pool != "" {
			t.Errorf("%s: %+v", a, line)
		}
	}
	if !strings.Contains(fmt.Sprint(status.Weaknesses), "dhcp-alone") {
		t.Errorf("status does not say that they are used alone: %+v", status.Weaknesses)
	}
	for _, n := range status.Neighbourhoods {
		if server := netip.MustParseAddr(n.Server); server == leased.Addr4 || server == dropped.Addr6 {
			t.Errorf("a server that the network names has a neighbourhood: %+v", n)
		}
	}
	for name := range files {
		if err := os.Remove(filepath.Join(h.run, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.states.clear()
	if err := h.lab.Host.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil { // a change, so that all is read anew
		t.Fatal(err)
	}
	s.log.await(t, 10*time.Second, with("server "+dropped.Addr6.String()+" loses its place: the network does not name it any more"))
	if line := lineOf(h.status(), leased.Addr4); line.State != "not there" {
		t.Errorf("it is named no more: %+v", line)
	}
	s.stop()
}

func lineOf(s *guard.Status, a netip.Addr) guard.ServerStatus {
	for _, line := range s.Servers {
		if line.Address == a.String() {
			return line
		}
	}
	return guard.ServerStatus{State: "not there"}
}
