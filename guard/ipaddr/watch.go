package ipaddr

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const atMostEvery = 50 * time.Millisecond

// changes tells everybody who listens that something changed, never what.
type changes struct {
	socket *nl.NetlinkSocket
	failed chan struct{} // closed when no more changes will be told
	err    error         // why, once failed is closed

	mu        sync.Mutex
	listeners map[chan struct{}]bool
}

func openChanges() (*changes, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return nil, err
	}
	return &changes{socket: socket, failed: make(chan struct{}), listeners: map[chan struct{}]bool{}}, nil
}

func (c *changes) close() { c.socket.Close() }

// tell pokes everybody.
func (c *changes) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.listeners {
		poke(l)
	}
}

// join returns a channel that is poked after every change, and once now, for
// what changed since the caller last looked; and how to leave.
func (c *changes) join() (changed chan struct{}, leave func()) {
	changed = make(chan struct{}, 1)
	poke(changed)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[changed] = true
	return changed, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, changed)
	}
}

// listen waits for messages until the socket is closed. ENOBUFS means that some
// were lost, and the socket goes on: it is a change like any other, for whoever
// is told reads everything anew.
func (s *Stack) listen() {
	defer s.wg.Done()
	for {
		_, from, err := s.changes.socket.Receive()
		switch {
		case err == nil && from.Pid != nl.PidKernel:
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			s.changes.err = fmt.Errorf("read changes of links, addresses and routes: %w", err)
			close(s.changes.failed)
			return
		}
		poke(s.hint)
		s.changes.tell()
	}
}

// Watch calls changed once, for what changed since the caller last looked, and
// after every change of links, addresses, routes, their rules or readiness: at once after the
// first and then at most 20 times a second. After a call that took long it rests
// four times as long, so that a host with very many routes that change all the
// time spends a fifth of one processor at most. It returns when ctx is done, with nil, or when changes cannot be told any more.
func (s *Stack) Watch(ctx context.Context, changed func()) error {
	told, leave := s.changes.join()
	defer leave()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changes.failed:
			return s.changes.err
		case <-told:
		}
		start := time.Now()
		changed()
		rest.Reset(max(atMostEvery, 4*time.Since(start)))
	}
}
