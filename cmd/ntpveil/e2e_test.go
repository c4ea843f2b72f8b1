package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/control"
	"ntpveil/guard/lab"
)

// A daemon among real peers, a chronyd on every server and radvd on the router,
// is synchronised within ten seconds; each server sees another address.
func TestRealPeers(t *testing.T) {
	h := install(t, lab.Options{Servers: 4, Radvd: true, Chronyd: true}, basics)
	capture, err := h.lab.Host.Link.Peer.Capture()
	if err != nil {
		t.Fatal(err)
	}
	s := h.start()
	status := h.synced(10 * time.Second)
	took := time.Since(s.began)
	t.Logf("synchronised %.1f s after the start, offset %+.6f s", took.Seconds(), status.Clock.Offset)
	if took > 10*time.Second {
		t.Errorf("it took %s to synchronise", took)
	}
	if err := capture.Close(); err != nil {
		t.Fatal(err)
	}
	shown := map[netip.Addr]netip.Addr{} // by server
	for _, p := range capture.Packets() {
		if _, to := p.Ports(); p.Proto == unix.IPPROTO_UDP && to == 123 && !p.Out {
			shown[p.Dst] = p.Src
		}
	}
	h.differ(shown)
	for _, x := range status.Servers {
		if x.State != "selected" && x.State != "candidate" {
			t.Errorf("server %s is %s: %s", x.Address, x.State, x.Reason)
		}
	}
	s.stop()
}

// differ requires that every server saw an address of its own, never the stable one.
func (h *host) differ(shown map[netip.Addr]netip.Addr) {
	h.Helper()
	if len(shown) != 5 {
		h.Errorf("%d servers were asked, there are 5", len(shown))
	}
	by := map[netip.Addr]netip.Addr{}
	for server, source := range shown {
		if h.own[source] {
			h.Errorf("server %s saw %s, which is not thrown away", server, source)
		}
		if other, twice := by[source]; twice {
			h.Errorf("servers %s and %s both saw %s", server, other, source)
		}
		by[source] = server
	}
}

// When a query reaches a server, and before that has answered, its source stands
// in the host's kernel under guard, with an end. Then everything there is can be
// read by a person and by a program, and the daemon that waits for its next sync
// is small.
func TestArrival(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	var mu sync.Mutex
	shown := map[netip.Addr]netip.Addr{}
	for _, server := range append(h.lab.Servers, h.lab.Harvester.Server) {
		server.OnArrival(func(q lab.Query) {
			guarded, err := h.set("exposed6")
			mu.Lock()
			defer mu.Unlock()
			shown[server.Addr6] = q.From.Addr()
			if e := guarded[q.From.Addr().String()]; err != nil || e.Timeout <= 0 || e.Expires <= 0 {
				t.Errorf("%s was asked from %s, and exposed6 had %v (%v)", server, q.From, guarded, err)
			}
		})
	}
	s := h.start()
	status := h.synced(10 * time.Second)
	mu.Lock()
	h.differ(shown)
	mu.Unlock()
	if status.Shield.State != "in force" || len(status.Neighbourhoods) != 5 {
		t.Errorf("shield %s, %d neighbourhoods", status.Shield.State, len(status.Neighbourhoods))
	}
	h.listed()
	s.stop()
}

// An ordered stop leaves no address and every guard, and the next run takes both
// the guards and the memory of them over.
func TestStopAndAdopt(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	h.hurry()
	s := h.start()
	h.synced(10 * time.Second)
	if n := len(h.throwAways()); n < 5 {
		t.Fatalf("%d throw-away addresses while it runs", n)
	}
	s.stop()
	left, err := h.set("exposed6")
	if err != nil || len(left) < 5 {
		t.Fatalf("exposed6 after the stop: %v (%v)", left, err)
	}
	for addr, e := range left {
		if e.Timeout <= 0 || e.Expires <= 0 {
			t.Errorf("the guard of %s has no end: %+v", addr, e)
		}
	}
	s = h.start()
	h.synced(10 * time.Second)
	var exposures []guard.ExposureStatus
	h.json(&exposures, "exposures", "--json")
	known := map[string]string{}
	for _, e := range exposures {
		if e.GuardedUntil != nil && e.AskedAt != nil {
			known[e.Address] = e.Server
		}
	}
	for addr := range left {
		if known[addr] == "" {
			t.Errorf("the second run does not know who saw %s", addr)
		}
	}
	s.stop()
}

// Somebody flushes the whole rule set: it is back within a second, every guard
// with it, and the log says who did it.
func TestForeignFlush(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	h.hurry()
	s := h.start()
	h.synced(10 * time.Second)
	before, err := h.set("exposed6")
	if err != nil || len(before) < 5 {
		t.Fatalf("exposed6: %v (%v)", before, err)
	}
	began := time.Now()
	if _, err := h.nft("flush", "ruleset"); err != nil {
		t.Fatal(err)
	}
	line := s.log.await(t, 5*time.Second, with("shield lost"))
	if took := time.Since(began); took > time.Second {
		t.Errorf("the table was back after %s", took)
	}
	t.Log(line)
	if !strings.Contains(line, "changed by nft") || !strings.Contains(line, "off for") {
		t.Errorf("the log does not name the culprit: %s", line)
	}
	after, err := h.set("exposed6")
	if err != nil {
		t.Fatal(err)
	}
	for addr := range before {
		if after[addr].Expires <= 0 {
			t.Errorf("%s is not guarded any more", addr)
		}
	}
	if state := h.status().Shield.State; state != "in force" {
		t.Errorf("the shield is %s", state)
	}
	s.stop()
}

// Where no throw-away address can be made the daemon says so, and goes on with
// what there is: from the stable address, or over IPv4, the neighbourhoods closed.
func TestNoPrefix(t *testing.T) {
	for name, stable := range map[string]string{"a single address": "2001:db8:1::10/128", "no IPv6": ""} {
		t.Run(name, func(t *testing.T) {
			h := install(t, lab.Options{Servers: 3}, basics)
			h.renumber(stable)
			h.resolv = h.path("resolv.conf")
			if err := os.WriteFile(h.resolv, []byte("nameserver "+h.lab.DNS.Addr4.String()+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := h.start()
			status := h.synced(12 * time.Second)
			codes := map[string]bool{}
			for _, w := range status.Weaknesses {
				codes[w.Code] = true
			}
			hoods := "hoods6"
			if stable == "" {
				hoods = "hoods4"
			}
			if !codes["no-rotation"] || stable == "" && !codes["ipv4"] {
				t.Errorf("status says nothing of it: %+v", status.Weaknesses)
			}
			if closed, err := h.set(hoods); err != nil || len(closed) < 4 {
				t.Errorf("%s: %v (%v)", hoods, closed, err)
			}
			if made := h.throwAways(); len(made) > 0 {
				t.Errorf("made %v", made)
			}
			s.stop()
		})
	}
}

// A name server that does not answer holds nobody up: the service is READY, and
// synchronises when the names come.
func TestNoDNSAtStart(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	h.hurry()
	h.lab.DNS.Silence(true)
	s := h.start()
	if took := time.Since(s.began); took > 3*time.Second {
		t.Errorf("it took %s to be READY", took)
	}
	if status := h.status(); status.Synchronized || len(status.Servers) > 0 || status.Shield.State != "in force" {
		t.Errorf("synchronised %t, servers %v, shield %s", status.Synchronized, status.Servers, status.Shield.State)
	}
	h.lab.DNS.Silence(false)
	h.synced(20 * time.Second)
	s.stop()
}

// TestWhoReadsIsGone: a daemon whose standard error leads nowhere any more works, and
// stops in order.
func TestWhoReadsIsGone(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	s := &service{Cmd: h.program("daemon", "--observe-clock"), host: h, log: newLines()}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	s.Stderr = w
	err = s.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	h.states.await(t, 10*time.Second, func(l string) bool { return l == "READY=1" })
	h.synced(10 * time.Second)
	s.stop()
}

// TestAReloadAtTheStart ends nobody: of a signal that nothing takes the service
// manager would think that it was meant, and not start the daemon again.
func TestAReloadAtTheStart(t *testing.T) {
	wrong := errors.New("wrong")
	err := serve(t.Context(), func() (guard.Config, error) {
		err := unix.Kill(os.Getpid(), unix.SIGHUP)
		time.Sleep(50 * time.Millisecond)
		return guard.Config{}, errors.Join(wrong, err)
	}, nil, io.Discard)
	if !errors.Is(err, wrong) {
		t.Error(err)
	}
}

// A reload is all or nothing.
func TestReload(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	h.hurry()
	s := h.start()
	h.synced(10 * time.Second)
	h.states.clear()
	h.configure(basics + "[shield]\nmode = \"observe\"\nhold = \"soon\"\n")
	if err := s.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	line := s.log.await(t, 5*time.Second, with("reload configuration"))
	t.Log(line)
	if !strings.Contains(line, "nothing changed") || !strings.Contains(line, h.path("ntpveil.toml")+":6:1: shield.hold") {
		t.Errorf("the log does not say where the configuration is wrong: %s", line)
	}
	h.states.await(t, 5*time.Second, with("RELOADING=1"))
	h.states.await(t, 5*time.Second, with("READY=1"))
	status, err := control.Call(t.Context(), h.path("control.sock"), control.Request{Verb: "status"}) // no command line finds the socket in a wrong file
	if err != nil {
		t.Fatal(err)
	}
	if !status.Synchronized || status.Shield.State != "in force" {
		t.Errorf("after a wrong configuration: synchronised %t, shield %s", status.Synchronized, status.Shield.State)
	}
	h.configure(basics + "[shield]\nmode = \"observe\"\n")
	h.states.clear()
	if err := s.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	h.states.await(t, 5*time.Second, with("shield observing"))
	if status := h.status(); !status.Synchronized || status.Shield.State != "observing" {
		t.Errorf("after a right configuration: synchronised %t, shield %s", status.Synchronized, status.Shield.State)
	}
	s.stop()
}

// However often the daemon is restarted, in order or not, no server is asked more
// than its bucket allows.
func TestTwentyRestarts(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	h.hurry()
	began := time.Now()
	for i := range 20 {
		s := h.start()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		// Either it synchronises or it has no right to ask: then nothing happens,
		// and 300 ms is some thirty times what an exchange takes.
		_, _ = h.program("waitsync", "--timeout", "300ms").CombinedOutput()
		if i%2 == 0 {
			if err := s.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = s.Wait()
		} else if err := s.Stop(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
	took := time.Since(began)
	most := 4 + 1 + int(took/(64*time.Second))
	for _, server := range append(h.lab.Servers, h.lab.Harvester.Server) {
		if n := len(server.Queries()); n > most || n < 3 {
			t.Errorf("%s was asked %d times in %s, at most %d are allowed", server, n, took, most)
		}
	}
	t.Log(counts(h.lab), "queries in", took)
}

func counts(l *lab.Lab) string {
	var all []string
	for _, server := range append(l.Servers, l.Harvester.Server) {
		all = append(all, fmt.Sprint(len(server.Queries())))
	}
	return strings.Join(all, "+")
}
