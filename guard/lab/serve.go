package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/net/ipv6"
)

// Serve makes the node answer on these ports, on every address it has, with
// what it is sent. It ends with the lab.
func (n *Node) Serve(tcp, udp []uint16) error {
	for _, p := range tcp {
		var ln net.Listener
		err := n.Do(func() (err error) {
			var lc net.ListenConfig
			ln, err = lc.Listen(context.Background(), "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), p).String())
			return err
		})
		if err != nil {
			return fmt.Errorf("serve tcp/%d: %w", p, err)
		}
		n.lab.run(func() { n.lab.accept(ln) }, func() { ln.Close() })
	}
	for _, p := range udp {
		c, err := n.listenUDP(netip.AddrPortFrom(netip.IPv6Unspecified(), p))
		if err == nil {
			err = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
		}
		if err != nil {
			return fmt.Errorf("serve udp/%d: %w", p, err)
		}
		n.lab.run(func() { echo(c) }, func() { c.Close() })
	}
	return nil
}

func (l *Lab) accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the visitor has gone again
		}
		over := make(chan struct{})
		l.tasks.Add(2)
		go func() {
			defer l.tasks.Done()
			defer close(over)
			// Through our own memory: a splice would keep its pipe for others.
			_, _ = io.Copy(struct{ io.Writer }{c}, c)
		}()
		go func() {
			defer l.tasks.Done()
			select {
			case <-over:
			case <-l.done:
			}
			c.Close()
		}()
	}
}

// echo answers from the address that was asked, as careful services do: the
// control message that came is the one that is sent.
func echo(c *net.UDPConn) {
	b, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, on, _, from, err := c.ReadMsgUDPAddrPort(b, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _, _ = c.WriteMsgUDPAddrPort(b[:n], oob[:on], from)
		}
	}
}
