package ipaddr

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// Options of Open. The zero value is the namespace of the caller.
type Options struct {
	NS         int      // file descriptor of a network namespace, open as long as the Stack; 0 or less: that of the calling thread
	ResolvConf []string // files that name resolvers; nil: those of libc and of systemd-resolved
	Networkd   string   // directory of systemd-networkd's state of the links; empty: where it is
	Drops      string   // directory of files that name time servers; empty: /run/ntpveil-dhcp
}

// Stack is the IP stack of one network namespace.
type Stack struct {
	ns         int
	resolvConf []string
	networkd   string
	drops      string
	handle     *netlink.Handle
	changes    *changes
	ndp        *neighbours // nil: a kernel without IPv6

	hint chan struct{}
	done chan struct{}
	wg   sync.WaitGroup

	mu   sync.Mutex
	ours map[netip.Addr]*address // what Set was asked for, until it is neither asked for nor there
}

// Open opens the sockets. It needs CAP_NET_RAW; Set needs CAP_NET_ADMIN.
func Open(o Options) (*Stack, error) {
	s := newStack(o)
	if err := s.inNamespace(s.open); err != nil {
		s.closeSockets()
		return nil, err
	}
	s.wg.Add(3)
	go s.listen()
	go s.hear()
	go s.work()
	return s, nil
}

func newStack(o Options) *Stack {
	s := &Stack{
		ns:         o.NS,
		resolvConf: o.ResolvConf,
		networkd:   cmp.Or(o.Networkd, networkdLinks),
		drops:      cmp.Or(o.Drops, dropFiles),
		hint:       make(chan struct{}, 1),
		done:       make(chan struct{}),
		ours:       map[netip.Addr]*address{},
	}
	if s.resolvConf == nil {
		s.resolvConf = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}
	}
	return s
}

// Look reads the facts of the host once; it needs no privileges. prefer is the
// configured interface or empty.
func Look(o Options, prefer string) (guard.Host, error) {
	s := newStack(o)
	err := s.inNamespace(func() (err error) {
		s.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return guard.Host{}, fmt.Errorf("open netlink socket: %w", err)
	}
	defer s.handle.Close()
	return s.Host(prefer)
}

func (s *Stack) String() string { return "addresses" }

func (s *Stack) open() (err error) {
	if s.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	if s.changes, err = openChanges(); err != nil {
		return fmt.Errorf("subscribe to changes of links, addresses and routes: %w", err)
	}
	s.ndp, err = openNeighbours()
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6: there are no addresses to wait for
		return fmt.Errorf("open socket for neighbour discovery (needs CAP_NET_RAW): %w", err)
	}
	return nil
}

// Close ends everything but the addresses, which have deadlines of their own.
// Set, Seen and Host must have returned, and must not be called any more; a
// Watch returns with an error.
func (s *Stack) Close() error {
	close(s.done)
	return s.closeSockets()
}

func (s *Stack) closeSockets() error {
	var err error
	if s.changes != nil {
		s.changes.close()
	}
	if s.ndp != nil {
		err = s.ndp.conn.Close()
	}
	s.wg.Wait() // one of them uses the handle
	if s.handle != nil {
		s.handle.Close()
	}
	return err
}

// inNamespace runs f where the Stack is at home.
func (s *Stack) inNamespace(f func() error) error {
	if s.ns <= 0 {
		return f()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread()              // and never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() { // but the first one never ends: it is held while another works
			defer runtime.UnlockOSThread()
			result <- s.inNamespace(f)
			return
		}
		if err := unix.Setns(s.ns, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// whole reads a list until the kernel says that nothing changed while it was read.
func whole[T any](read func() ([]T, error)) ([]T, error) {
	const tries = 16 // a host whose routes change all the time must not keep us
	for i := 0; ; i++ {
		list, err := read()
		if err == nil || !errors.Is(err, netlink.ErrDumpInterrupted) || i == tries {
			return list, err
		}
	}
}

// poke has the work done anew, soon.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func readLine(path string) (string, error) {
	b, err := os.ReadFile(path)
	for i, c := range b {
		if c == '\n' {
			b = b[:i]
			break
		}
	}
	return string(b), err
}
