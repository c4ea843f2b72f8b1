package lab

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bare makes a node without a cable.
func (l *Lab) bare(name string) (*Node, error) {
	s, err := newSpace()
	if err != nil {
		return nil, err
	}
	l.undo = append(l.undo, s.close)
	if err := loopbackUp(s.handle); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Node{Name: name, lab: l, space: s}, nil
}

// routing makes the router one, before any link of it is up. Its only link-local
// address is fe80::1, on every link.
func (l *Lab) routing() error {
	return l.Router.space.sysctls(
		"ipv4/ip_forward", "1",
		"ipv6/conf/all/forwarding", "1",
		"ipv6/conf/default/accept_dad", "0",
		"ipv6/conf/default/addr_gen_mode", "1",
		"ipv6/icmp/ratelimit", "0", // what it would say is said
	)
}

func routerLinkLocal() netip.Addr { return netip.MustParseAddr("fe80::1") }

// place gives both ends of a node's cable their addresses, but for the host's
// IPv6 one, and switches them on.
func (n *Node) place(p place) error {
	n.Addr6, n.Addr4, n.Net6, n.Net4 = p.addr6, p.addr4, p.net6, p.net4
	near := n.Link.Peer
	for _, up := range []*Link{near, n.Link} {
		if err := up.Set(true); err != nil {
			return err
		}
	}
	for _, a := range []netip.Addr{routerLinkLocal(), p.router6()} {
		if err := near.add(a, 64); err != nil {
			return err
		}
	}
	if err := near.add(p.router4(), 24); err != nil {
		return err
	}
	if err := n.Link.add(p.addr4, 24); err != nil {
		return err
	}
	return n.Link.defaultRoute(p.router4())
}

// static builds a node with fixed addresses, which are usable at once.
func (l *Lab) static(name string, p place) (*Node, error) {
	n, err := l.bare(name)
	if err != nil {
		return nil, err
	}
	err = n.space.sysctls("ipv6/conf/default/accept_dad", "0", "ipv6/conf/default/accept_ra", "0")
	if err != nil {
		return nil, err
	}
	if err = l.plug(n); err != nil {
		return nil, err
	}
	if err = n.place(p); err != nil {
		return nil, err
	}
	if err = n.Link.add(p.addr6, 64); err != nil {
		return nil, err
	}
	return n, n.Link.defaultRoute(routerLinkLocal())
}

// buildHost builds the guarded one, which configures its IPv6 address itself.
func (l *Lab) buildHost(ctx context.Context, o Options) (err error) {
	if l.Host, err = l.bare("host"); err != nil {
		return err
	}
	h := l.Host
	// Without the random delay (up to 1 s) the first duplicate-address check
	// takes 1 s; later ones are as they are everywhere.
	err = h.space.sysctls("ipv6/conf/default/use_tempaddr", "0", "ipv6/conf/default/router_solicitation_delay", "0")
	if err != nil {
		return err
	}
	if err = l.plug(h); err != nil {
		return err
	}
	ready, err := h.awaitAddr()
	if err != nil {
		return err
	}
	defer ready.stop()
	if err = h.place(hostPlace()); err != nil {
		return err
	}
	if err = l.advertise(ctx, o.Radvd); err != nil {
		return err
	}
	if h.Addr6, err = ready.wait(ctx); err != nil {
		return err
	}
	return h.Sysctl("ipv6/conf/eth0/router_solicitation_delay", "1")
}

// awaited is a subscription to a node's addresses.
type awaited struct {
	updates chan netlink.AddrUpdate
	done    chan struct{}
}

func (n *Node) awaitAddr() (*awaited, error) {
	w := &awaited{updates: make(chan netlink.AddrUpdate, 16), done: make(chan struct{})}
	err := n.Do(func() error { return netlink.AddrSubscribe(w.updates, w.done) })
	if err != nil {
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	return w, nil
}

// wait returns the first global IPv6 address that passed its duplicate check.
func (w *awaited) wait(ctx context.Context) (netip.Addr, error) {
	for {
		select {
		case u, ok := <-w.updates:
			if !ok {
				return netip.Addr{}, fmt.Errorf("watch addresses: the kernel ended it")
			}
			a, _ := netip.AddrFromSlice(u.LinkAddress.IP)
			if a = a.Unmap(); u.NewAddr && a.Is6() && a.IsGlobalUnicast() && u.Flags&unix.IFA_F_TENTATIVE == 0 {
				return a, nil
			}
		case <-ctx.Done():
			return netip.Addr{}, fmt.Errorf("await the host's address: %w", ctx.Err())
		}
	}
}

// stop ends the subscription. Its goroutine may hold an update already.
func (w *awaited) stop() {
	close(w.done)
	for range w.updates {
	}
}
