package lab

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// DNS is the lab's name server. Its answers may be changed at any time; their
// TTL is zero.
type DNS struct {
	*Node
	mu     sync.Mutex
	names  map[string][]netip.Addr
	silent bool
	asked  []string
}

func (l *Lab) buildDNS() error {
	n, err := l.static("dns", dnsPlace())
	if err != nil {
		return err
	}
	l.DNS = &DNS{Node: n, names: map[string][]netip.Addr{}}
	for _, a := range []netip.Addr{n.Addr6, n.Addr4} {
		c, err := n.listenUDP(netip.AddrPortFrom(a, 53))
		if err != nil {
			return err
		}
		l.run(func() { l.DNS.serve(c) }, func() { c.Close() })
	}
	return nil
}

// Set makes the name have exactly these addresses, of either family. Without
// any the name exists and has none.
func (d *DNS) Set(name string, addrs ...netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name] = slices.Clone(addrs)
}

// Remove makes the name unknown.
func (d *DNS) Remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.names, name)
}

// Silence stops the answers, or lets them go on.
func (d *DNS) Silence(silent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = silent
}

// Asked lists the questions that came, as "AAAA name", oldest first.
func (d *DNS) Asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

func (d *DNS) serve(c *net.UDPConn) {
	b := make([]byte, 1500)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an error that came back from an earlier answer
		}
		if reply := d.reply(b[:n]); reply != nil {
			_, _ = c.WriteToUDPAddrPort(reply, from)
		}
	}
}

// reply is nil for what is no question and where the server is silent.
func (d *DNS) reply(b []byte) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(b)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	d.asked = append(d.asked, strings.TrimPrefix(q.Type.String(), "Type")+" "+name)
	if d.silent {
		return nil
	}
	addrs, known := d.names[name]
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	if !known {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		m.Answers = appendAnswer(m.Answers, q, a)
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// appendAnswer adds the address where it is of the family that was asked for.
func appendAnswer(to []dnsmessage.Resource, q dnsmessage.Question, a netip.Addr) []dnsmessage.Resource {
	head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
	switch {
	case q.Type == dnsmessage.TypeA && a.Is4():
		return append(to, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
	case q.Type == dnsmessage.TypeAAAA && a.Is6():
		return append(to, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
	}
	return to
}
