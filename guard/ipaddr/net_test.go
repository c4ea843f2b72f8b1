package ipaddr_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/ipaddr"
)

var (
	stable  = netip.MustParseAddr("2001:db8:1::10")
	gateway = netip.MustParseAddr("fe80::1")
	prefix  = netip.MustParsePrefix("2001:db8:1::/64")
)

// space is a network namespace of the test's own.
type space struct {
	t      *testing.T
	fd     int
	handle *netlink.Handle
}

func newSpace(t *testing.T) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace (unshare -rn gives one)")
	}
	s := &space{t: t}
	outside(t, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		if s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		s.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	t.Cleanup(func() {
		s.handle.Close()
		unix.Close(s.fd)
	})
	return s
}

// outside runs f on a thread that ends with it.
func outside(t *testing.T, f func() error) {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

// in runs f in the namespace.
func (s *space) in(f func() error) {
	s.t.Helper()
	outside(s.t, func() error {
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (s *space) sysctl(key, value string) {
	s.t.Helper()
	s.in(func() error {
		return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0)
	})
}

// ip runs the ip command.
func (s *space) ip(args string) string {
	s.t.Helper()
	var out []byte
	s.in(func() (err error) {
		if out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			s.t.Logf("ip %s: %s", args, out)
		}
		return err
	})
	return string(out)
}

func (s *space) link(name string) int {
	s.t.Helper()
	l, err := s.handle.LinkByName(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return l.Attrs().Index
}

// wire is a host and a router at the two ends of one cable.
type wire struct {
	host, router *space
	link         int // of the host
}

func newWire(t *testing.T) *wire {
	t.Helper()
	t.Parallel() // they wait for the kernel most of the time
	w := &wire{host: newSpace(t), router: newSpace(t)}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "lan0", PeerNamespace: netlink.NsFd(w.router.fd)}
	if err := w.host.handle.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	w.router.sysctl("ipv6/conf/lan0/addr_gen_mode", "1") // no link-local address but the one below
	w.router.sysctl("ipv6/conf/all/forwarding", "1")
	w.router.ip("link set lan0 up")
	w.router.ip("addr add fe80::1/64 dev lan0 nodad")
	w.router.ip("addr add 2001:db8:1::1/64 dev lan0 nodad")
	w.host.ip("link set lo up")
	w.host.ip("link set eth0 up")
	w.host.ip("addr add " + stable.String() + "/64 dev eth0 nodad")
	w.host.ip("addr add 192.0.2.10/24 dev eth0")
	w.host.ip("-6 route add default via fe80::1 dev eth0 metric 1024")
	w.host.ip("route add default via 192.0.2.1 dev eth0")
	w.link = w.host.link("eth0")
	return w
}

// stack is the adapter under test, with everything that it tells.
type stack struct {
	*ipaddr.Stack
	t       *testing.T
	changed chan struct{}
}

func (s *space) open() *stack {
	s.t.Helper()
	real, err := ipaddr.Open(ipaddr.Options{NS: s.fd, ResolvConf: []string{}})
	if err != nil {
		s.t.Fatal(err)
	}
	st := &stack{Stack: real, t: s.t, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- real.Watch(ctx, func() {
			select {
			case st.changed <- struct{}{}:
			default:
			}
		})
	}()
	s.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
		if err := real.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return st
}

func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func (s *stack) set(want ...guard.Addr) {
	s.t.Helper()
	if err := s.Set(now(), want); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) seen() (all []guard.Addr, ready []netip.Addr) {
	s.t.Helper()
	all, ready, err := s.Seen(now())
	if err != nil {
		s.t.Fatal(err)
	}
	return all, ready
}

// await waits for a condition, looking after every change that is told.
func (s *stack) await(what string, cond func() bool) {
	s.t.Helper()
	late := time.NewTimer(15 * time.Second)
	defer late.Stop()
	for !cond() {
		select {
		case <-s.changed:
		case <-late.C:
			s.t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (s *stack) awaitReady(a netip.Addr) {
	s.t.Helper()
	s.await(a.String()+" is ready", func() bool {
		_, ready := s.seen()
		return has(ready, a)
	})
}

func has(list []netip.Addr, a netip.Addr) bool {
	for _, x := range list {
		if x == a {
			return true
		}
	}
	return false
}

func holds(list []guard.Addr, a netip.Addr) bool {
	for _, x := range list {
		if x.Addr == a {
			return true
		}
	}
	return false
}

// throwAway is the nth address of the test, for an hour.
func (w *wire) throwAway(n byte) guard.Addr {
	b := prefix.Addr().As16()
	b[8], b[15] = 0xab, n
	return guard.Addr{Addr: netip.AddrFrom16(b), Link: w.link, Until: now() + time.Hour, Meet: gateway}
}

// bind reports whether a UDP socket can be bound to an address.
func (s *space) bind(a netip.Addr) error {
	var bound error
	s.in(func() error {
		c, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if bound = err; err == nil {
			c.Close()
		}
		return nil
	})
	return bound
}
