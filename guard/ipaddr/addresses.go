package ipaddr

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// entry is an address as the kernel has it.
type entry struct {
	addr      netip.Addr
	bits      int
	link      int
	scope     int
	flags     int
	valid     uint32 // seconds left
	preferred uint32
}

// forever is INFINITY_LIFE_TIME.
const forever = math.MaxUint32

// throwAway reports whether the address has the shape of ours.
func (e entry) throwAway() bool {
	return e.addr.Is6() && e.bits == 128 && e.flags&unix.IFA_F_NOPREFIXROUTE != 0 && e.deprecated() &&
		e.valid != forever && e.scope == unix.RT_SCOPE_UNIVERSE
}

func (e entry) deprecated() bool { return e.flags&unix.IFA_F_DEPRECATED != 0 || e.preferred == 0 }

// failed reports whether somebody else on the link has the address.
func (e entry) failed() bool { return e.flags&unix.IFA_F_DADFAILED != 0 }

// usable reports whether the address can be bound.
func (e entry) usable() bool {
	return !e.failed() && e.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC) != unix.IFA_F_TENTATIVE
}

// list reads the IPv6 addresses of all links.
func (s *Stack) list() ([]entry, error) { return s.listFamily(netlink.FAMILY_V6) }

func (s *Stack) listFamily(family int) ([]entry, error) {
	raw, err := whole(func() ([]netlink.Addr, error) { return s.handle.AddrList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	out := make([]entry, 0, len(raw))
	for _, r := range raw {
		if r.IPNet == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.IP)
		bits, _ := r.Mask.Size()
		if r.Peer != nil { // the prefix belongs to the far end
			bits, _ = r.Peer.Mask.Size()
		}
		out = append(out, entry{addr.Unmap(), bits, r.LinkIndex, r.Scope, r.Flags, uint32(r.ValidLft), uint32(r.PreferedLft)})
	}
	return out, nil
}

// Set adds what is missing and removes what it was once asked for and is asked
// for no longer. An address of our shape that is there already is taken over.
// It goes on after an error and returns all of them.
func (s *Stack) Set(now time.Duration, want []guard.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.list()
	if err != nil {
		return err
	}
	wished := make(map[netip.Addr]bool, len(want))
	for _, w := range want {
		wished[w.Addr] = true
	}
	errs := s.removeBut(wished, list)
	for _, w := range want {
		errs = append(errs, s.keep(now, w, list))
	}
	poke(s.hint)
	return errors.Join(errs...)
}

// removeBut removes what was asked for once and is not wished.
func (s *Stack) removeBut(wished map[netip.Addr]bool, list []entry) (errs []error) {
	for addr, a := range s.ours {
		if wished[addr] {
			continue
		}
		if err := s.remove(a.Addr, list); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.ours, addr)
	}
	return errs
}

// remove removes an address if it is there and still of our shape.
func (s *Stack) remove(a guard.Addr, list []entry) error {
	there := slices.ContainsFunc(list, func(e entry) bool { return e.addr == a.Addr && e.link == a.Link && e.throwAway() })
	if !there {
		return nil
	}
	err := s.handle.AddrDel(nil, message(a.Addr, a.Link))
	if err == nil || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil // or it went by itself in this moment
	}
	return fmt.Errorf("remove address %s from %s: %w", a.Addr, s.linkName(a.Link), explain(err))
}

// keep makes a wished address exist, if it never did.
func (s *Stack) keep(now time.Duration, w guard.Addr, list []entry) error {
	if a := s.ours[w.Addr]; a != nil {
		a.Meet = w.Meet
		return nil // made or asked for before: what vanished is not put back
	}
	if i := slices.IndexFunc(list, func(e entry) bool { return e.addr == w.Addr }); i >= 0 {
		if e := list[i]; !e.throwAway() || e.link != w.Link {
			return fmt.Errorf("add address %s to %s: the host has it already, on %s", w.Addr, s.linkName(w.Link), s.linkName(e.link))
		}
		s.ours[w.Addr] = &address{Addr: w}
		return nil
	}
	if w.Until > now {
		if err := s.add(w, w.Until-now); err != nil {
			return err
		}
	}
	s.ours[w.Addr] = &address{Addr: w}
	return nil
}

// add adds an address. Its lifetime is rounded up to seconds, and the kernel
// ends it up to 1.2 s late.
func (s *Stack) add(w guard.Addr, left time.Duration) error {
	m := message(w.Addr, w.Link)
	m.Flags = unix.IFA_F_NOPREFIXROUTE // else the advertised on-link route gets our lifetime
	m.ValidLft = int(min((left+time.Second-1)/time.Second, forever-1))
	m.PreferedLft = 0
	if err := s.handle.AddrAdd(nil, m); err != nil {
		return fmt.Errorf("add address %s to %s: %w", w.Addr, s.linkName(w.Link), explain(err))
	}
	return nil
}

func message(a netip.Addr, link int) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(128, 128)}, LinkIndex: link}
}

// explain adds what the kernel means by an error.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("IPv6 is off on the interface (sysctl disable_ipv6): %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("needs CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("the interface is gone: %w", err)
	case errors.Is(err, unix.ENOBUFS):
		return fmt.Errorf("the interface cannot carry IPv6 (MTU below 1280): %w", err)
	}
	return err
}

// Seen lists every address of our shape, whoever made it, sorted, and which of
// those that Set was asked for are ready. An address whose duplicate address
// detection failed is not there, and one of ours is removed.
func (s *Stack) Seen(now time.Duration) (all []guard.Addr, ready []netip.Addr, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.list()
	if err != nil {
		return nil, nil, err
	}
	s.look(list)
	for _, e := range list {
		if !e.throwAway() {
			continue
		}
		a := s.ours[e.addr]
		if e.failed() {
			if a != nil && a.Link == e.link {
				err = errors.Join(err, s.remove(a.Addr, list))
			}
			continue
		}
		seen := guard.Addr{Addr: e.addr, Link: e.link, Until: now + time.Duration(e.valid)*time.Second}
		if a != nil && a.Link == e.link {
			seen.Meet = a.Meet
			if a.ready() {
				ready = append(ready, e.addr)
			}
		}
		all = append(all, seen)
	}
	slices.SortFunc(all, func(a, b guard.Addr) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(ready, netip.Addr.Compare)
	return all, ready, err
}

func (s *Stack) linkName(index int) string {
	link, err := s.handle.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("interface %d", index)
	}
	return link.Attrs().Name
}
