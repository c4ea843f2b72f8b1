package resolve

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// handler makes the answer to a question; false: none is sent.
type handler func(q dnsmessage.Question, m *dnsmessage.Message) bool

// server is a name server on loopback, by UDP and TCP at once, and the resolver
// that asks it. What does not fit 512 bytes is truncated over UDP (RFC 1035).
func server(t *testing.T, handle handler) *net.Resolver {
	t.Helper()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	go serveUDP(udp, handle)
	go serveTCP(tcp, handle)
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		at := udp.LocalAddr().String()
		if strings.HasPrefix(network, "tcp") {
			at = tcp.Addr().String()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, at)
	}}
}

func serveUDP(c net.PacketConn, handle handler) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if out := respond(buf[:n], 512, handle); out != nil {
			_, _ = c.WriteTo(out, from)
		}
	}
}

func serveTCP(l net.Listener, handle handler) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, query); err != nil {
				return
			}
			if out := respond(query, 65535, handle); out != nil {
				_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...))
			}
		}()
	}
}

func respond(query []byte, room int, handle handler) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	if !handle(m.Questions[0], &m) {
		return nil
	}
	out, err := m.Pack()
	if err == nil && len(out) > room {
		m.Truncated, m.Answers = true, nil
		out, err = m.Pack()
	}
	if err != nil {
		return nil
	}
	return out
}

// addrs answers with those of the addresses that are of the family asked for.
func addrs(all ...netip.Addr) handler {
	return func(q dnsmessage.Question, m *dnsmessage.Message) bool {
		for _, a := range all {
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
			}
		}
		return true
	}
}

// code answers with an error.
func code(c dnsmessage.RCode) handler {
	return func(_ dnsmessage.Question, m *dnsmessage.Message) bool {
		m.RCode = c
		return true
	}
}

// mute never answers.
func mute(dnsmessage.Question, *dnsmessage.Message) bool { return false }

// families handles AAAA and A apart.
func families(six, four handler) handler {
	return func(q dnsmessage.Question, m *dnsmessage.Message) bool {
		if q.Type == dnsmessage.TypeAAAA {
			return six(q, m)
		}
		return four(q, m)
	}
}
