package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is one end of a cable.
type Link struct {
	Node  *Node
	Name  string
	Index int
	MAC   net.HardwareAddr
	Peer  *Link // the other end
}

// Set switches the cable on or off at this end, as if it were pulled out.
func (l *Link) Set(up bool) error {
	h, dev := l.Node.Netlink(), &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index}}
	set := h.LinkSetDown
	if up {
		set = h.LinkSetUp
	}
	if err := set(dev); err != nil {
		return fmt.Errorf("set link %s of %s: %w", l.Name, l.Node.Name, err)
	}
	return nil
}

func (l *Link) add(addr netip.Addr, bits int) error {
	ip := net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
	a := &netlink.Addr{IPNet: &ip}
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD // nobody else is on the cable
	}
	if err := l.Node.Netlink().AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index}}, a); err != nil {
		return fmt.Errorf("add %s to %s of %s: %w", addr, l.Name, l.Node.Name, err)
	}
	return nil
}

func (l *Link) defaultRoute(via netip.Addr) error {
	r := &netlink.Route{LinkIndex: l.Index, Gw: via.AsSlice()}
	if err := l.Node.Netlink().RouteAdd(r); err != nil {
		return fmt.Errorf("add default route of %s: %w", l.Node.Name, err)
	}
	return nil
}

// mac is a locally administered address; side 1 is the router's.
func mac(side, number byte) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0, 0, side, 0, number}
}

// plug lays a cable from the router to the node; both ends are down.
func (l *Lab) plug(n *Node) error {
	l.cables++
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "to-"+n.Name, mac(1, l.cables)
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac(2, l.cables), PeerNamespace: netlink.NsFd(n.FD()),
	}
	if err := l.Router.Netlink().LinkAdd(veth); err != nil {
		return fmt.Errorf("lay cable to %s: %w", n.Name, err)
	}
	near, err := l.Router.end(attrs.Name)
	if err != nil {
		return err
	}
	if n.Link, err = n.end("eth0"); err != nil {
		return err
	}
	near.Peer, n.Link.Peer = n.Link, near
	return nil
}

func (n *Node) end(name string) (*Link, error) {
	found, err := n.Netlink().LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s of %s: %w", name, n.Name, err)
	}
	return &Link{Node: n, Name: name, Index: found.Attrs().Index, MAC: found.Attrs().HardwareAddr}, nil
}
