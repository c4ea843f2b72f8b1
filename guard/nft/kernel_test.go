package nft

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// kernel is a network namespace of a test.
type kernel struct {
	t    *testing.T
	ns   netns.NsHandle
	link *netlink.Handle
}

// largeBatches skips a test that has nft load more at once than a socket takes of anybody
// but the machine's root (SO_SNDBUFFORCE).
func largeBatches(t *testing.T) {
	t.Helper()
	users, err := os.ReadFile("/proc/self/uid_map")
	if f := strings.Fields(string(users)); os.Geteuid() != 0 || err == nil && (len(f) != 3 || f[2] != "4294967295") {
		t.Skip("needs root, not of a user namespace")
	}
}

// newKernel makes a network namespace; its thread is never given back to the
// scheduler. With root missing the test is skipped.
func newKernel(t testing.TB) *kernel {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, of a user namespace at least (unshare -rn)")
	}
	made := make(chan error)
	k := &kernel{}
	k.t, _ = t.(*testing.T)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- err
			return
		}
		ns, err := netns.Get()
		k.ns = ns
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.ns.Close() })
	link, err := netlink.NewHandleAt(k.ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	k.link = link
	return k
}

func (k *kernel) open(t testing.TB) *Shield {
	t.Helper()
	s, err := Open(int(k.ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// device makes a device of that name; its peer is name0.
func (k *kernel) device(t testing.TB, name string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := k.link.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "0"}); err != nil {
		t.Fatal(err)
	}
}

func (k *kernel) removeDevice(t testing.TB, name string) {
	t.Helper()
	l, err := k.link.LinkByName(name)
	if err == nil {
		err = k.link.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// nft runs the real nft in the namespace.
func (k *kernel) nft(t testing.TB, input string, args ...string) string {
	t.Helper()
	out, err := k.tryNft(input, args...)
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return out
}

func (k *kernel) tryNft(input string, args ...string) (string, error) {
	path := fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(k.ns))
	cmd := exec.CommandContext(context.Background(), "nsenter", append([]string{path, "nft"}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mono() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seen(t testing.TB, s *Shield) rules.Shield {
	t.Helper()
	got, err := s.Seen(mono())
	must(t, err)
	return got
}

func addr(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0x0d, 0xb8, 7: 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
}

// wish is a shield with something of everything.
func wish(devices ...string) rules.Shield {
	now := mono()
	server6, server4 := netip.MustParseAddrPort("[2001:db8:5::1]:123"), netip.MustParseAddrPort("192.0.2.1:123")
	return rules.Shield{
		Mode: rules.Enforce, Preset: "workstation", LogGroup: 5, Devices: devices,
		Allow:   []rules.Service{{Proto: "tcp", Port: 22}, {Proto: "tcp", Port: 80}, {Proto: "udp", Port: 443}},
		Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("11.0.0.0/8"), netip.MustParsePrefix("255.0.0.0/8"), netip.MustParsePrefix("2001:db8:f::/48")},
		Exposed: []rules.Exposed{{Addr: addr(1), Until: now + 26*time.Hour}, {Addr: addr(2), Until: now + 25*time.Hour}},
		Solicited: []rules.Solicited{
			{Server: server4, Our: netip.MustParseAddrPort("198.51.100.2:40000"), Until: now + 5*time.Second},
			{Server: server6, Our: netip.AddrPortFrom(addr(1), 40001), Until: now + 5*time.Second},
			{Server: server6, Our: netip.AddrPortFrom(addr(2), 40001), TCP: true, Until: now + 5*time.Second},
		},
		Hoods: []rules.Hood{
			{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Server: server4.Addr(), Until: now + 15*time.Minute},
			{Prefix: netip.MustParsePrefix("2001:db8:5::/48"), Server: server6.Addr(), Until: now + 15*time.Minute},
			{Prefix: netip.MustParsePrefix("2001:db8:6::/56"), Server: netip.MustParseAddr("2001:db8:6::1"), Until: now + 15*time.Minute},
			{Prefix: netip.MustParsePrefix("64:ff9b::cb00:7100/120"), Server: netip.MustParseAddr("64:ff9b::cb00:7101"), Until: now + 15*time.Minute},
		},
	}
}
