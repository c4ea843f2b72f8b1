package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Query is one request that reached a server.
type Query struct {
	At   time.Time // when it was read, monotonic reading included
	From netip.AddrPort
	To   netip.AddrPort
	NTP  NTP
	Data []byte // all of it
}

// Server is an NTP server whose behaviour may be changed at any time. It records
// every request, and begins as an honest one.
type Server struct {
	*Node
	mu      sync.Mutex
	answer  Answer
	hook    func(Query)
	tell    func(Query) // of the harvester
	seen    []Query
	arrived chan struct{} // closed and replaced by every request
}

func newServer(n *Node) *Server {
	return &Server{Node: n, answer: Honest(), hook: func(Query) {}, tell: func(Query) {}, arrived: make(chan struct{})}
}

// Answer changes the behaviour.
func (s *Server) Answer(a Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = a
}

// OnArrival sets what is called for every request before it is answered; the
// answer waits for it.
func (s *Server) OnArrival(hook func(Query)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// Queries lists the requests that came, oldest first.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Await returns the requests when there are n of them. Their answers may not
// have left yet.
func (s *Server) Await(ctx context.Context, n int) ([]Query, error) {
	for {
		s.mu.Lock()
		seen, arrived := slices.Clone(s.seen), s.arrived
		s.mu.Unlock()
		if len(seen) >= n {
			return seen, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return seen, fmt.Errorf("await query %d at %s: %w", n, s.Name, ctx.Err())
		}
	}
}

// serve opens port 123 on both addresses: the answer comes from the address
// that was asked.
func (s *Server) serve() error {
	for _, a := range []netip.Addr{s.Addr6, s.Addr4} {
		at := netip.AddrPortFrom(a, 123)
		c, err := s.listenUDP(at)
		if err != nil {
			return fmt.Errorf("serve NTP: %w", err)
		}
		s.lab.run(func() { s.loop(c, at) }, func() { c.Close() })
	}
	return nil
}

func (s *Server) loop(c *net.UDPConn, at netip.AddrPort) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an error that came back from an earlier answer
		}
		q := Query{At: time.Now(), From: netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), To: at, Data: slices.Clone(b[:n])}
		var valid bool
		if q.NTP, valid = ParseNTP(q.Data); valid && q.NTP.Mode == 3 {
			s.take(c, q)
		}
	}
}

func (s *Server) take(c *net.UDPConn, q Query) {
	s.mu.Lock()
	answer, hook := s.answer, s.hook
	s.seen = append(s.seen, q)
	close(s.arrived)
	s.arrived = make(chan struct{})
	s.mu.Unlock()
	s.tell(q)
	hook(q)
	for _, r := range answer(q) {
		if r.After == 0 {
			_, _ = c.WriteToUDPAddrPort(r.Data, q.From) // nobody there any more: as on the internet
			continue
		}
		time.AfterFunc(r.After, func() { _, _ = c.WriteToUDPAddrPort(r.Data, q.From) })
	}
}
