package ipaddr

import (
	"net/netip"
	"time"

	"ntpveil/guard"
)

const (
	solicitations = 3 // MAX_MULTICAST_SOLICIT of RFC 4861, section 10
	solicitEvery  = time.Second
)

// address is a throw-away address on its way to ready.
type address struct {
	guard.Addr
	here   bool // in the kernel, by the last look
	usable bool // DAD is over, by the last look
	asked  int  // solicitations sent to the gateway
	again  time.Time
	met    bool // the gateway knows it, or was waited for long enough
}

func (a *address) ready() bool { return a.here && a.usable && a.met }

// see takes what the kernel said of the address.
func (a *address) see(here, usable bool) {
	a.here, a.usable = here, here && usable
	if !a.usable {
		a.asked, a.met = 0, false
	}
}

// due reports whether a solicitation has to be sent now, and moves on.
func (a *address) due(now time.Time) bool {
	switch {
	case !a.usable || a.met:
		return false
	case !a.Meet.IsValid():
		a.met = true
		return false
	case a.asked > 0 && now.Before(a.again):
		return false
	case a.asked == solicitations:
		a.met = true
		return false
	}
	a.asked++
	a.again = now.Add(solicitEvery)
	return true
}

// work moves addresses from tentative to ready: after every change, and when the
// next solicitation is due.
func (s *Stack) work() {
	defer s.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-s.hint:
		case <-timer.C:
		}
		if next := s.advance(time.Now()); next > 0 {
			timer.Reset(next)
		}
	}
}

// advance looks at what is not ready yet. It returns how long until it has to be
// called again without a change; 0: not at all.
func (s *Stack) advance(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.allReady() {
		return 0
	}
	list, err := s.list()
	if err != nil {
		return solicitEvery
	}
	s.look(list)
	var next time.Duration
	changed := false
	for _, a := range s.ours {
		met := a.met
		if a.due(now) {
			s.solicit(a)
		}
		changed = changed || a.met != met
		if wait := a.again.Sub(now); a.usable && !a.met && (next == 0 || wait < next) {
			next = wait
		}
	}
	if changed {
		s.changes.tell()
	}
	return next
}

// solicit asks the gateway from the address. The first time by unicast, which is
// quicker on wireless, and the kernel resolves the gateway from the same address
// where it has to; then by multicast, in case the neighbour entry is stale. What
// goes wrong shows as no answer.
func (s *Stack) solicit(a *address) {
	link, err := s.handle.LinkByIndex(a.Link)
	if err != nil {
		return
	}
	_ = s.ndp.solicit(a.Addr.Addr, a.Meet.WithZone(""), a.Link, link.Attrs().HardwareAddr, a.asked > 1)
}

func (s *Stack) allReady() bool {
	for _, a := range s.ours {
		if !a.ready() {
			return false
		}
	}
	return true
}

// look compares what Set was asked for with what is there. The caller holds mu.
func (s *Stack) look(list []entry) {
	at := make(map[netip.Addr]entry, len(list))
	for _, e := range list {
		if e.throwAway() {
			at[e.addr] = e
		}
	}
	for _, a := range s.ours {
		e, here := at[a.Addr.Addr]
		here = here && e.link == a.Link && !e.failed()
		a.see(here, here && e.usable())
	}
}

// hear waits for advertisements of gateways until the socket is closed.
func (s *Stack) hear() {
	defer s.wg.Done()
	if s.ndp == nil {
		return
	}
	buf := make([]byte, 1500)
	for {
		ad, err := s.ndp.next(buf)
		if err != nil {
			return
		}
		if s.meet(ad) {
			s.changes.tell()
		}
	}
}

// meet reports whether the advertisement was the one that an address waits for.
func (s *Stack) meet(ad advertisement) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.ours[ad.to]
	if a == nil || a.met || !a.usable || a.Meet.WithZone("") != ad.target || a.Link != ad.link {
		return false
	}
	a.met = true
	return true
}
