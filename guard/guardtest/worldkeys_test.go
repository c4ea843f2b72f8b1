package guardtest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
)

// ntsWorld is a quiet world with four hosts of time.nts and no pool.
func ntsWorld() *World {
	w := newWorld(1)
	w.quiet = true
	w.conf.Pools = nil
	for _, h := range w.net.nts {
		w.conf.NTS = append(w.conf.NTS, guard.Server{Host: h.name, Port: 4460})
	}
	return w
}

func (w *World) turn(t *testing.T, d time.Duration) guard.Status {
	t.Helper()
	if err := w.Run(d); err != nil {
		t.Fatalf("%v\n%s", err, w.Tail(40))
	}
	return w.guard.Status(w.now)
}

// TestKeysOfADay: keys last a day, and every query is protected. After a restart
// in the same network they are used on; in another network none is.
func TestKeysOfADay(t *testing.T) {
	w := ntsWorld()
	w.start()
	if s := w.turn(t, 15*time.Second); !s.Synchronized || len(s.Servers) != 4 {
		t.Fatalf("%+v", s)
	}
	for _, x := range w.guard.Status(w.now).Servers {
		if !x.NTS || x.State != "selected" && x.State != "candidate" {
			t.Errorf("%+v", x)
		}
	}
	w.turn(t, 49*time.Hour)
	if n := w.judge.Keyings; n != 4*3 {
		t.Errorf("%d key exchanges with 4 hosts in 49 hours, want 12", n)
	}
	if w.judge.Protected != w.judge.Asks || w.judge.Asks < 4*49 {
		t.Errorf("%d queries, %d of them protected", w.judge.Asks, w.judge.Protected)
	}
	before := w.judge.Asks
	w.kill()
	if s := w.turn(t, 10*time.Minute); !s.Synchronized || w.judge.Keyings != 12 || w.judge.Asks == before {
		t.Errorf("after a restart: synchronised %t, %d key exchanges, %d queries", s.Synchronized, w.judge.Keyings, w.judge.Asks)
	}
	w.newPrefix()
	if s := w.turn(t, 10*time.Minute); !s.Synchronized || w.judge.Keyings != 16 {
		t.Errorf("in another network: synchronised %t, %d key exchanges", s.Synchronized, w.judge.Keyings)
	}
	w.net.prefix = w.net.prefix.Masked()
	w.kill()
	w.newPrefix() // while it does not run
	if s := w.turn(t, 10*time.Minute); !s.Synchronized || w.judge.Keyings != 20 {
		t.Errorf("started in another network: synchronised %t, %d key exchanges", s.Synchronized, w.judge.Keyings)
	}
}

// TestHostsWithoutKeys are not asked, and status says why; the exchanges become
// rare, and end it at once when they succeed.
func TestHostsWithoutKeys(t *testing.T) {
	w := ntsWorld()
	for i := range w.net.nts {
		w.net.nts[i].fails = 1
	}
	w.start()
	s := w.turn(t, 12*time.Hour)
	if s.Synchronized || w.judge.Asks != 0 || s.Servers[0].State != "new" || !s.Servers[0].NTS || !strings.Contains(s.Servers[0].Reason, "the server was too slow") {
		t.Errorf("%d queries, %+v", w.judge.Asks, s)
	}
	said := 0
	for _, x := range s.Weaknesses {
		if x.Code == "nts" && strings.Contains(x.Text, "no keys of nts") && strings.Contains(x.Text, "too slow") {
			said++
		}
	}
	if said != 4 {
		t.Errorf("weaknesses %+v", s.Weaknesses)
	}
	if n := w.judge.Keyings / 4; n < 14 || n > 19 { // 1+2+4+8+16+32 minutes, then hourly
		t.Errorf("%d key exchanges with a host in 12 hours", n)
	}
	for i := range w.net.nts {
		w.net.nts[i].fails = 0
	}
	if s := w.turn(t, 75*time.Minute); !s.Synchronized {
		t.Errorf("%+v", s)
	}
}

// TestTheNetworkDoesNotStandIn for hosts of time.nts, whether they have no keys or
// not even a name: whoever runs the network could see to that.
func TestTheNetworkDoesNotStandIn(t *testing.T) {
	for _, nodns := range []bool{false, true} {
		w := ntsWorld()
		w.conf.MinAgree = 1
		w.conf.DHCP, w.net.names, w.net.nodns = "join", true, nodns
		for i := range w.net.nts {
			w.net.nts[i].fails = 1
		}
		w.start()
		if s := w.turn(t, 3*time.Hour); s.Synchronized || w.judge.Asks == 0 {
			t.Errorf("no names %t: %d queries, %+v", nodns, w.judge.Asks, s.Weaknesses)
		}
	}
}

// TestNAKsAreAReasonOnlyInARow: one is none; three without an answer between are,
// and then keys are exchanged once.
func TestNAKsAreAReasonOnlyInARow(t *testing.T) {
	w := ntsWorld()
	w.start()
	w.turn(t, 20*time.Minute)
	w.net.nts[0].naks = 1
	naked := w.judge.Keyings
	polls := w.judge.Asks
	for w.judge.Asks < polls+4*(manyNAKs-1) && w.judge.broken == nil {
		w.turn(t, w.events[0].at-w.now.Mono)
	}
	w.turn(t, 30*time.Second)
	if w.judge.Keyings != naked {
		t.Errorf("keys were exchanged after %d NAKs", manyNAKs-1)
	}
	w.turn(t, 3*time.Hour)
	if n := w.judge.Keyings - naked; n < 1 || n > 6 {
		t.Errorf("%d key exchanges with a host that sends NAKs for three hours", n)
	}
	for _, x := range w.guard.Status(w.now).Servers {
		if bad := strings.HasPrefix(x.Name, "nts0"); bad != (x.State == "unreachable") {
			t.Errorf("%+v", x)
		}
	}
}

const manyNAKs = 3 // of package guard

// TestWhatAKeyExchangeMayName: no address that cannot be a server, and not the
// server of another host.
func TestWhatAKeyExchangeMayName(t *testing.T) {
	for named, want := range map[string]string{
		"::1": "loopback address", "192.168.1.1": "private address", "nowhere.world.example": "no usable address", "2001:db8:1:1::55": "our own address",
		"2001:db8:211::123": "of another address family",
	} {
		w := ntsWorld()
		w.net.nts[3].named = named
		w.start()
		s := w.turn(t, 10*time.Minute)
		if x := s.Servers[3]; !strings.Contains(x.Reason, want) || !s.Synchronized || x.Reach != 0 {
			t.Errorf("%s: %+v", named, x)
		}
	}
	w := ntsWorld()
	w.net.nts[2].named = w.net.nts[0].addr.String()
	w.start()
	s := w.turn(t, 10*time.Minute)
	if n := refused(s); len(n) != 1 || !s.Synchronized {
		t.Errorf("two hosts of one server: %+v", s.Servers)
	}
	w = ntsWorld()
	w.net.nts[0].named, w.net.nts[0].foreign = w.net.nts[1].named, true
	w.start()
	s = w.turn(t, 10*time.Minute)
	if n := refused(s); !slices.Equal(n, []string{w.net.nts[0].name}) || !s.Synchronized {
		t.Errorf("a host that names the server of another: %+v", s.Servers)
	}
}

// refused are the hosts whose server stands for another one already.
func refused(s guard.Status) (hosts []string) {
	for _, x := range s.Servers {
		if strings.Contains(x.Reason, "stands for") {
			hosts = append(hosts, x.Name)
		}
	}
	return hosts
}

// TestTimeOutsideTheCertificate is not believed (RFC 8915 section 8.5).
func TestTimeOutsideTheCertificate(t *testing.T) {
	w := ntsWorld()
	w.conf.MinAgree = 1
	w.start()
	w.turn(t, 5*time.Minute)
	w.conf.MaxForward = 0
	w.offset += 90 * 24 * time.Hour // the servers say so, and their certificates held for 30 days
	s := w.turn(t, 10*time.Minute)
	if w.judge.Fixes == 0 || !strings.Contains(s.Servers[0].Reason, "outside the validity of its certificate") {
		t.Errorf("%+v", s.Servers)
	}
}
