package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/lab"
)

// host is a lab's host with ntpveil installed, seen from outside: by its command
// line, by nft, and by what the kernel lists.
type host struct {
	*testing.T
	lab    *lab.Lab
	dir    string
	binary string              // the program
	resolv string              // its /etc/resolv.conf, where it is not the lab's
	run    string              // its /run, where it is not the machine's
	states *lines              // what it told the service manager
	own    map[netip.Addr]bool // addresses that it had before
}

// basics is a configuration that asks every server of the lab's pool.
const basics = "[time]\npools = [\"" + lab.Pool + "\"]\nuse = 5\n"

// install sets a host up. Keys are the configuration.
func install(t *testing.T, o lab.Options, keys string) *host {
	t.Helper()
	h := &host{T: t, lab: lab.ForTest(t, o), binary: "/proc/self/exe", states: newLines(), own: map[netip.Addr]bool{}}
	var err error
	if h.dir, err = os.MkdirTemp("", "ntpveil-test-"); err != nil { // t.TempDir is too long for a socket
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(h.dir) })
	h.configure(keys)
	for _, a := range h.addresses() {
		h.own[a] = true
	}
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { manager.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := manager.Read(b)
			if err != nil {
				return
			}
			h.states.add(string(b[:n]))
		}
	}()
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) configure(keys string) {
	h.Helper()
	text := fmt.Sprintf("%s\n[ledger]\npath = %q\n[control]\nsocket = %q\n", keys, h.path("ledger.db"), h.path("control.sock"))
	if err := os.WriteFile(h.path("ntpveil.toml"), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

// hurry makes duplicate-address detection as real as ever, in 50 ms.
func (h *host) hurry() {
	h.Helper()
	for key, value := range map[string]string{"ipv6/conf/eth0/router_solicitation_delay": "0", "ipv6/neigh/eth0/retrans_time_ms": "50"} {
		if err := h.lab.Host.Sysctl(key, value); err != nil {
			h.Fatal(err)
		}
	}
}

// program is a command line of ntpveil.
func (h *host) program(args ...string) *lab.Cmd {
	c := h.lab.Host.Command(context.Background(), h.binary, append([]string{"--config", h.path("ntpveil.toml")}, args...)...)
	if h.run != "" {
		c.Mount("/run", h.run)
	}
	c.Env = append(os.Environ(), asProgram+"=1", resolvConf+"="+h.resolv, "SSL_CERT_FILE="+h.path("ca.pem"), "NOTIFY_SOCKET="+h.path("notify"))
	return c
}

// service is a running daemon.
type service struct {
	*lab.Cmd
	host  *host
	log   *lines
	began time.Time
}

// start starts the daemon, clock observed, and returns when it is READY.
func (h *host) start() *service {
	h.Helper()
	s := &service{Cmd: h.program("daemon", "--observe-clock"), host: h, log: newLines(), began: time.Now()}
	h.states.clear()
	s.Stderr = s.log
	if err := s.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		if h.Failed() {
			h.Logf("daemon %d said:\n%s", s.Process.Pid, s.log)
		}
	})
	ended := fmt.Sprintf("process %d ended", s.Process.Pid) // the one before may be told of as ended only now
	go func() {
		<-s.Exited()
		h.states.add(ended)
	}()
	if got := h.states.await(h.T, 10*time.Second, func(l string) bool { return l == "READY=1" || l == ended }); got == ended {
		h.Fatalf("the daemon ended: %v\n%s", s.Wait(), s.log)
	}
	return s
}

// stop stops the daemon in order.
func (s *service) stop() {
	s.host.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	began := time.Now()
	if err := s.Stop(ctx); err != nil {
		s.host.Fatalf("stop: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		s.host.Errorf("it took %s to stop", took)
	}
	if left := s.host.throwAways(); len(left) > 0 {
		s.host.Errorf("%v are left after the stop", left)
	}
}

// synced waits until the clock is synchronised.
func (h *host) synced(within time.Duration) *guard.Status {
	h.Helper()
	if out, err := h.program("waitsync", "--timeout", within.String()).CombinedOutput(); err != nil {
		status, _ := h.program("status").CombinedOutput()
		h.Fatalf("waitsync: %v: %s%s", err, out, status)
	}
	return h.status()
}

func (h *host) status() *guard.Status {
	h.Helper()
	var s guard.Status
	h.json(&s, "status", "--json")
	return &s
}

func (h *host) json(into any, args ...string) {
	h.Helper()
	c := h.program(args...)
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		h.Fatalf("ntpveil %s: %v: %s", args, err, &complaint)
	}
	if err := json.Unmarshal(out, into); err != nil {
		h.Fatalf("ntpveil %s: %v in %s", args, err, out)
	}
}

// renumber gives the host one IPv6 address instead of what the router advertises,
// or none.
func (h *host) renumber(to string) {
	h.Helper()
	if err := h.lab.Host.Sysctl("ipv6/conf/eth0/accept_ra_pinfo", "0"); err != nil {
		h.Fatal(err)
	}
	nl := h.lab.Host.Netlink()
	list, err := nl.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		h.Fatal(err)
	}
	for _, x := range list {
		if !x.IP.IsLinkLocalUnicast() && !x.IP.IsLoopback() {
			if err := nl.AddrDel(nil, &x); err != nil {
				h.Fatal(err)
			}
		}
	}
	if to != "" {
		addr, err := netlink.ParseAddr(to)
		if err != nil {
			h.Fatal(err)
		}
		addr.LinkIndex, addr.Flags = h.lab.Host.Link.Index, unix.IFA_F_NODAD
		if err := nl.AddrAdd(nil, addr); err != nil {
			h.Fatal(err)
		}
	}
	h.own = map[netip.Addr]bool{}
	for _, a := range h.addresses() {
		h.own[a] = true
	}
}

// addresses are the IPv6 addresses that the kernel lists.
func (h *host) addresses() (all []netip.Addr) {
	h.Helper()
	list, err := h.lab.Host.Netlink().AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		h.Fatal(err)
	}
	for _, x := range list {
		a, _ := netip.AddrFromSlice(x.IP)
		all = append(all, a)
	}
	return all
}

// throwAways are the addresses that the host did not have before.
func (h *host) throwAways() []netip.Addr {
	return slices.DeleteFunc(h.addresses(), func(a netip.Addr) bool { return h.own[a] })
}

// nft runs nft on the host.
func (h *host) nft(args ...string) ([]byte, error) {
	c := h.lab.Host.Command(context.Background(), "nft", args...)
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("nft %s: %w: %s", args, err, &complaint)
	}
	return out, nil
}

// element is one of a set, as nft prints it: what it was given, and what is left
// of it, in seconds.
type element struct{ Timeout, Expires int }

// set lists the elements of a set, by nft; IPv6 addresses and prefixes are text.
func (h *host) set(name string) (map[string]element, error) {
	out, err := h.nft("-j", "list", "set", "inet", "ntpveil", name)
	if err != nil {
		return nil, err
	}
	var listing struct {
		Nftables []struct {
			Set struct {
				Elem []struct {
					Elem struct {
						Val any `json:"val"`
						element
					} `json:"elem"`
				} `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(out, &listing); err != nil {
		return nil, fmt.Errorf("list set %s: %w in %s", name, err, out)
	}
	all := map[string]element{}
	for _, x := range listing.Nftables {
		for _, e := range x.Set.Elem {
			all[fmt.Sprint(e.Elem.Val)] = e.Elem.element
		}
	}
	return all, nil
}

// lines is what a program said, line by line.
type lines struct {
	mu      sync.Mutex
	partial string
	all     []string
	more    chan struct{} // closed and replaced by every line
}

func newLines() *lines { return &lines{more: make(chan struct{})} }

// Write takes a program's output.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	text := l.partial + string(b)
	end := strings.LastIndexByte(text, '\n') + 1
	l.partial = text[end:]
	l.mu.Unlock()
	for s := bufio.NewScanner(strings.NewReader(text[:end])); s.Scan(); {
		l.add(s.Text())
	}
	return len(b), nil
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
	close(l.more)
	l.more = make(chan struct{})
}

// clear forgets what was said.
func (l *lines) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// await returns the first line that matches, said already or within a time.
func (l *lines) await(t *testing.T, within time.Duration, match func(string) bool) string {
	t.Helper()
	deadline := time.After(within)
	for {
		l.mu.Lock()
		i, more := slices.IndexFunc(l.all, match), l.more
		if i >= 0 {
			defer l.mu.Unlock()
			return l.all[i]
		}
		l.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("not said within %s; what was:\n%s", within, l)
		}
	}
}

// with makes a match of a part of a line.
func with(part string) func(string) bool {
	return func(line string) bool { return strings.Contains(line, part) }
}
