package main

import (
	"errors"
	"net/netip"
	"time"

	"ntpveil/guard/ipaddr"
	"ntpveil/guard/lab"
	"ntpveil/guard/sysclock"
)

// self is this program, to be run on the lab's host.
func (s *story) self(args ...string) *lab.Cmd {
	return s.lab.Host.Command(s.ctx, "/proc/self/exe", args...)
}

// told waits for the last address that the harvester passed on.
func (s *story) told() (netip.Addr, error) {
	var last netip.AddrPort
	select {
	case last = <-s.lab.Harvester.Told:
	case <-s.ctx.Done():
		return netip.Addr{}, s.ctx.Err()
	case <-time.After(10 * time.Second):
		return netip.Addr{}, errors.New("the harvester was not asked")
	}
	for {
		select {
		case last = <-s.lab.Harvester.Told:
		default:
			return last.Addr(), nil
		}
	}
}

// scan tries everything that a scanner would.
func (s *story) scan(from *lab.Node, target netip.Addr) (lab.Report, error) {
	return from.Scan(s.ctx, lab.Scan{Target: target, TCP: append([]uint16{123, 443}, services...), UDP: []uint16{53, 123, 161}, Echo: true})
}

// left lists the throw-away addresses on the lab's host.
func (s *story) left() ([]netip.Addr, error) {
	stack, err := ipaddr.Open(ipaddr.Options{NS: s.lab.Host.FD()})
	if err != nil {
		return nil, err
	}
	defer stack.Close()
	all, _, err := stack.Seen(sysclock.Mono())
	var out []netip.Addr
	for _, a := range all {
		out = append(out, a.Addr)
	}
	return out, err
}
