package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv6"
)

// Advertisement is what the router tells the host's link (RFC 4861 section 4.2).
type Advertisement struct {
	Prefix    netip.Prefix // on-link and for autoconfiguration
	Valid     time.Duration
	Preferred time.Duration
	Router    time.Duration // zero: no default router
}

func hostAdvertisement() Advertisement {
	return Advertisement{
		Prefix: hostPlace().net6, Valid: 24 * time.Hour, Preferred: 4 * time.Hour, Router: 30 * time.Minute,
	}
}

// bytes is the message with a prefix and a link-layer option; the kernel fills
// the checksum in.
func (a Advertisement) bytes(mac net.HardwareAddr) []byte {
	b := []byte{134, 0, 0, 0, 64, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(a.Router.Seconds()))
	b = append(b, make([]byte, 8)...) // reachable time and retransmit timer: unspecified
	b = append(append(b, 1, 1), mac...)
	b = append(b, 3, 4, byte(a.Prefix.Bits()), 0xc0)
	b = binary.BigEndian.AppendUint32(b, uint32(a.Valid.Seconds()))
	b = binary.BigEndian.AppendUint32(b, uint32(a.Preferred.Seconds()))
	b = append(b, 0, 0, 0, 0)
	return append(b, a.Prefix.Addr().AsSlice()...)
}

// advertiser sends router advertisements at start, every few seconds, on a
// change, and at once when it is solicited: all of them to everyone on the link.
type advertiser struct {
	conn *ipv6.PacketConn
	link *Link

	mu  sync.Mutex
	now Advertisement
}

func (l *Lab) advertise(ctx context.Context, radvd bool) error {
	if radvd {
		return l.Router.radvd(ctx, l.Host.Link.Peer, hostAdvertisement())
	}
	a := &advertiser{link: l.Host.Link.Peer, now: hostAdvertisement()}
	if err := l.Router.Do(a.open); err != nil {
		return fmt.Errorf("open advertiser: %w", err)
	}
	l.advertiser = a
	l.run(a.answer, func() { a.conn.Close() })
	l.run(func() { a.repeat(l.done) }, func() {})
	return a.send()
}

// Advertise changes what the router tells the host's link, and tells it.
func (l *Lab) Advertise(to Advertisement) error {
	a := l.advertiser
	if a == nil {
		return errors.New("advertise: radvd does it in this lab")
	}
	a.mu.Lock()
	a.now = to
	a.mu.Unlock()
	return a.send()
}

func (a *advertiser) open() error {
	c, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return err
	}
	a.conn = ipv6.NewPacketConn(c)
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	return a.conn.SetICMPFilter(&only)
}

// answer runs until the socket is closed.
func (a *advertiser) answer() {
	b := make([]byte, 256)
	for {
		if _, _, _, err := a.conn.ReadFrom(b); errors.Is(err, net.ErrClosed) {
			return
		}
		_ = a.send() // the link may be down: the host asks again
	}
}

func (a *advertiser) repeat(done <-chan struct{}) {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			_ = a.send()
		case <-done:
			return
		}
	}
}

func (a *advertiser) send() error {
	a.mu.Lock()
	b := a.now.bytes(a.link.MAC)
	a.mu.Unlock()
	cm := &ipv6.ControlMessage{HopLimit: 255, Src: routerLinkLocal().AsSlice(), IfIndex: a.link.Index}
	if _, err := a.conn.WriteTo(b, cm, &net.IPAddr{IP: net.IPv6linklocalallnodes}); err != nil {
		return fmt.Errorf("send router advertisement: %w", err)
	}
	return nil
}
