package guardtest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ntpveil/rules"
)

// Shield is a model of the kernel's table, as package nft shows it. Its elements
// run out by the time that each call brings. It prints itself as nft text.
type Shield struct {
	mu      sync.Mutex
	devices map[string]bool // that exist
	static  rules.Shield    // mode Off: there is no table
	exposed map[netip.Addr]rules.Exposed
	tuples  map[rules.Solicited]time.Duration // by all but their deadline
	hoods   map[netip.Prefix]rules.Hood
	fail    map[string]error
	lost    map[int]func(string)
	watches int
}

// NewShield is a kernel without a table, with these network devices.
func NewShield(devices ...string) *Shield {
	s := &Shield{devices: map[string]bool{}, fail: map[string]error{}, lost: map[int]func(string){}}
	for _, d := range devices {
		s.devices[d] = true
	}
	s.clear()
	return s
}

func (s *Shield) clear() {
	s.static = rules.Shield{}
	s.exposed, s.tuples, s.hoods = map[netip.Addr]rules.Exposed{}, map[rules.Solicited]time.Duration{}, map[netip.Prefix]rules.Hood{}
}

// Fail makes a stage (Grow, Shrink, Block, Seen or Watch) fail until it is told nil.
func (s *Shield) Fail(stage string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[stage] = err
}

// SetDevice makes a network device come or go.
func (s *Shield) SetDevice(name string, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices[name] = there
}

// Flush is somebody else removing the table.
func (s *Shield) Flush(culprit string) {
	s.mu.Lock()
	there := s.static.Mode != rules.Off
	s.clear()
	told := slices.Collect(maps.Values(s.lost))
	s.mu.Unlock()
	if there {
		for _, lost := range told {
			lost(culprit)
		}
	}
}

// Hit counts packets that the guard of an exposed address, or a neighbourhood, drops.
func (s *Shield) Hit(to netip.Addr, from netip.Addr, packets uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x, ok := s.exposed[to]; ok {
		x.Dropped += packets
		s.exposed[to] = x
		return
	}
	for p, h := range s.hoods {
		if p.Contains(from) {
			h.Dropped += packets
			s.hoods[p] = h
		}
	}
}

func (s *Shield) expire(now time.Duration) {
	maps.DeleteFunc(s.exposed, func(_ netip.Addr, x rules.Exposed) bool { return x.Until <= now })
	maps.DeleteFunc(s.tuples, func(_ rules.Solicited, until time.Duration) bool { return until <= now })
	maps.DeleteFunc(s.hoods, func(_ netip.Prefix, h rules.Hood) bool { return h.Until <= now })
}

// Grow adds what want has and the model lacks.
func (s *Shield) Grow(now time.Duration, want rules.Shield) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["Grow"]; err != nil || want.Mode == rules.Off {
		return err
	}
	for _, d := range want.Devices {
		if !s.devices[d] && !slices.Contains(s.static.Devices, d) {
			return fmt.Errorf("guard device %s: no such device", d)
		}
	}
	old := s.static
	s.static = want
	s.static.Lists = old.Lists
	s.static.Exposed, s.static.Solicited, s.static.Hoods = nil, nil, nil
	s.static.Allow = slices.Clone(want.Allow)
	s.static.Devices = slices.Concat(old.Devices, want.Devices)
	slices.Sort(s.static.Devices)
	s.static.Devices = slices.Compact(s.static.Devices)
	s.static.Trusted = rules.Widest(slices.Concat(old.Trusted, want.Trusted))
	s.add(want)
	s.expire(now)
	return nil
}

func (s *Shield) add(want rules.Shield) {
	for _, x := range want.Exposed {
		have := s.exposed[x.Addr]
		s.exposed[x.Addr] = rules.Exposed{Addr: x.Addr, Until: max(have.Until, x.Until), Dropped: have.Dropped}
	}
	for _, x := range want.Solicited {
		k := tupleOf(x)
		s.tuples[k] = max(s.tuples[k], x.Until)
	}
	for _, h := range want.Hoods {
		have := s.hoods[h.Prefix]
		s.hoods[h.Prefix] = rules.Hood{Prefix: h.Prefix, Server: cmp.Or(have.Server, h.Server), Until: max(have.Until, h.Until), Dropped: have.Dropped}
	}
}

// tupleOf is a tuple without its deadline.
func tupleOf(x rules.Solicited) rules.Solicited {
	x.Until = 0
	return x
}

// Shrink takes away what the model has and want lacks.
func (s *Shield) Shrink(now time.Duration, want rules.Shield) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["Shrink"]; err != nil || s.static.Mode == rules.Off {
		return err
	}
	if want.Mode == rules.Off {
		s.clear()
		return nil
	}
	s.static.Devices = slices.DeleteFunc(s.static.Devices, func(d string) bool { return !slices.Contains(want.Devices, d) })
	s.static.Trusted = rules.Widest(want.Trusted)
	maps.DeleteFunc(s.tuples, func(k rules.Solicited, _ time.Duration) bool {
		return !slices.ContainsFunc(want.Solicited, func(x rules.Solicited) bool { return tupleOf(x) == k })
	})
	maps.DeleteFunc(s.hoods, func(p netip.Prefix, _ rules.Hood) bool {
		return !slices.ContainsFunc(want.Hoods, func(h rules.Hood) bool { return h.Prefix == p })
	})
	s.expire(now)
	return nil
}

// Block makes the lists those that want has.
func (s *Shield) Block(_ context.Context, _ time.Duration, want rules.Shield) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["Block"]; err != nil || s.static.Mode == rules.Off || rules.SameLists(s.static.Lists, want.Lists) {
		return false, err
	}
	s.static.Lists = slices.Clone(want.Lists)
	return true, nil
}

// Seen is what is in force.
func (s *Shield) Seen(now time.Duration) (rules.Shield, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["Seen"]; err != nil {
		return rules.Shield{}, err
	}
	return s.seen(now), nil
}

func (s *Shield) seen(now time.Duration) rules.Shield {
	s.expire(now)
	if s.static.Mode == rules.Off {
		return rules.Shield{}
	}
	out := s.static
	out.Devices, out.Allow, out.Trusted = slices.Clone(out.Devices), slices.Clone(out.Allow), slices.Clone(out.Trusted)
	out.Exposed = slices.Collect(maps.Values(s.exposed))
	for k, until := range s.tuples {
		k.Until = until
		out.Solicited = append(out.Solicited, k)
	}
	out.Hoods = slices.Collect(maps.Values(s.hoods))
	out.Sort()
	return out
}

// Text is the table as nft text; empty where there is none.
func (s *Shield) Text(now time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := rules.Compile(s.seen(now))
	if err != nil {
		return "# " + err.Error() + "\n"
	}
	return t.Text(now)
}

// Watch tells of every Flush until ctx is done.
func (s *Shield) Watch(ctx context.Context, lost func(culprit string)) error {
	s.mu.Lock()
	if err := s.fail["Watch"]; err != nil {
		s.mu.Unlock()
		return err
	}
	id := s.watches
	s.watches++
	s.lost[id] = lost
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lost, id)
	return nil
}

// Close does nothing: the table stays.
func (s *Shield) Close() error { return nil }
