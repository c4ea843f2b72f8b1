package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Node is a machine of the lab: a network namespace with one cable to the router.
type Node struct {
	Name  string
	Addr6 netip.Addr // its stable address; of the host by autoconfiguration
	Addr4 netip.Addr
	Net6  netip.Prefix
	Net4  netip.Prefix
	Link  *Link // its end of the cable; of the router nil: it has many

	lab   *Lab
	space *space
}

func (n *Node) String() string { return n.Name }

// FD is the descriptor of the network namespace, for libraries that want one.
// It belongs to the lab and is closed with it.
func (n *Node) FD() int { return n.space.fd }

// Netlink is the node's own rtnetlink handle; it is closed with the lab.
func (n *Node) Netlink() *netlink.Handle { return n.space.handle }

// Do runs f on a fresh thread in the node's network namespace and waits for it;
// the thread ends with f. Sockets that f opens stay in the namespace wherever
// they are used later. Goroutines that f starts are elsewhere. f does not call
// Fatal and its like: it returns an error.
func (n *Node) Do(f func() error) error {
	if err := n.space.do(f); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// Sysctl sets a key below net, as in Sysctl("ipv6/conf/eth0/use_tempaddr", "2").
func (n *Node) Sysctl(key, value string) error {
	if err := n.space.sysctls(key, value); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// Dial connects from the node. The address must be a literal one.
func (n *Node) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Resolver asks the lab's DNS from the node.
func (n *Node) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return n.Dial(ctx, network, netip.AddrPortFrom(n.lab.DNS.Addr6, 53).String())
	}}
}

// listenUDP opens a socket that several may share: a program that sends from
// port 123 may stand beside the server.
func (n *Node) listenUDP(at netip.AddrPort) (c *net.UDPConn, err error) {
	err = n.Do(func() error {
		lc := net.ListenConfig{Control: reuse}
		pc, err := lc.ListenPacket(context.Background(), "udp", at.String())
		if err != nil {
			return err
		}
		c = pc.(*net.UDPConn)
		return nil
	})
	return c, err
}

func reuse(_, _ string, c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}); err != nil {
		return err
	}
	return failed
}
