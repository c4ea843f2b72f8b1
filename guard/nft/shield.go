package nft

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// Shield is the kernel's table of one network namespace.
type Shield struct {
	netns int

	mu    sync.Mutex
	conn  *conn  // nil after an error: the next call opens another and reads anew
	st    *state // nil: unknown
	frame frame  // the last one that we put up
	clock clock  // when the caller last said what time it is
	// Before Linux 6.12 adding an element again does not renew its timeout: it is
	// removed and added in one transaction. Found out at the first renewal.
	renewByReplacing bool

	blocked map[string]tally // what the sets of blocked prefixes in force hold
	meddled atomic.Bool      // somebody else changed the table since they were looked at

	watchBuffer int   // bytes
	ports       ports // netlink ports of conn, so that Watch knows our own changes
}

// frame is what we put up and read back, nobody else being at work meanwhile.
type frame struct {
	shield rules.Shield // what it was made from; mode Off: there is none yet
	mark   [32]byte
}

// Open opens the table of a network namespace, given by a file descriptor; 0 is the
// caller's own. It changes nothing.
func Open(netns int) (*Shield, error) {
	s := &Shield{netns: netns, watchBuffer: bufferSize}
	if err := s.dial(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Shield) dial() error {
	c, err := dial(s.netns)
	if err != nil {
		return err
	}
	s.conn, s.st = c, nil
	s.ports.used(c.port)
	return nil
}

// Close closes the connection; the table stays.
func (s *Shield) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	return s.giveUp(nil)
}

// giveUp closes a connection of which nobody knows what is still to be read
// from it. What is known of the table goes with it.
func (s *Shield) giveUp(err error) error {
	if s.conn != nil {
		err = errors.Join(err, s.conn.close())
	}
	s.conn, s.st = nil, nil
	return err
}

// refresh makes what is known true: it is read anew where a transaction that is not
// ours took place.
func (s *Shield) refresh(now time.Duration) error {
	s.clock = clock{mono: now, at: time.Now()}
	if s.conn == nil {
		if err := s.dial(); err != nil {
			return err
		}
	}
	if s.st != nil {
		gen, err := s.conn.generation()
		if err != nil {
			return s.giveUp(err)
		}
		if gen == s.st.gen {
			return nil
		}
	}
	st, err := s.conn.read(s.clock)
	if err != nil {
		return s.giveUp(err)
	}
	s.st = st
	return nil
}

// lookAtChains forgets what is known where a chain is not as it was. A device
// that vanishes takes its chain with it before Linux 6.16, and is no transaction.
func (s *Shield) lookAtChains(now time.Duration) error {
	chains, err := s.conn.readChains()
	if err != nil {
		return s.giveUp(fmt.Errorf("read chains: %w", explain(err)))
	}
	if slices.EqualFunc(chains, s.st.chains, chainSeen.equal) {
		return nil
	}
	s.st = nil
	return s.refresh(now)
}

// ours reports whether the frame in force is the one that we put up.
func (s *Shield) ours() bool {
	return s.st.exists && s.frame.shield.Mode != rules.Off && s.st.mark == s.frame.mark
}

// Grow adds what want has and the kernel lacks. Its errors can be told apart by
// ErrFull, ErrDenied, ErrNoDevice, ErrUnable, ErrOverrun and ErrNoAnswer.
func (s *Shield) Grow(now time.Duration, want rules.Shield) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want.Mode == rules.Off {
		return nil
	}
	if err := s.refresh(now); err != nil {
		return err
	}
	return s.grow(now, want)
}

func (s *Shield) grow(now time.Duration, want rules.Shield) error {
	have := s.st.shield(now, framing)
	armed := s.st.devices()
	if !s.ours() { // all chains are made anew, and cannot be for a device that is gone
		var err error
		if armed, err = existing(s.netns, armed); err != nil {
			return err
		}
	}
	union := want
	union.Lists = s.inForce()
	union.Devices = merged(want.Devices, armed)
	union.Trusted = rules.Widest(slices.Concat(want.Trusted, have.Trusted))
	union.Hoods = slices.Concat(want.Hoods, have.Hoods)
	if s.st.exists && s.st.fits(union) {
		return s.apply(now, union, false)
	}
	// Made anew, with everything that is in it; the chain of a device that is
	// wanted no longer would be refused if the device is gone.
	have = s.st.shield(now, every)
	union.Devices, union.Lists = want.Devices, nil // which Block brings back
	union.Exposed = slices.Concat(want.Exposed, have.Exposed)
	union.Solicited = slices.Concat(want.Solicited, have.Solicited)
	return s.make(now, union)
}

// merged is the sorted union.
func merged(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

// Shrink takes away what the kernel has and want lacks.
func (s *Shield) Shrink(now time.Duration, want rules.Shield) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(now); err != nil {
		return err
	}
	return s.shrink(now, want)
}

func (s *Shield) shrink(now time.Duration, want rules.Shield) error {
	switch {
	case !s.st.exists:
		return nil
	case want.Mode == rules.Off:
		b := &batch{}
		b.deleteTable()
		return s.commit(b)
	}
	here := s.st.devices()
	want.Lists = s.inForce()
	want.Devices = slices.DeleteFunc(slices.Clone(want.Devices), func(d string) bool { return !slices.Contains(here, d) })
	return s.apply(now, want, true)
}

// Seen is what is in force.
func (s *Shield) Seen(now time.Duration) (rules.Shield, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.refresh(now)
	if err == nil {
		err = s.lookAtChains(now)
	}
	if err != nil {
		return rules.Shield{}, fmt.Errorf("see shield: %w", err)
	}
	if !s.st.exists {
		return rules.Shield{}, nil
	}
	noted, err := s.count()
	if err != nil {
		return rules.Shield{}, fmt.Errorf("see shield: %w", s.giveUp(err))
	}
	out := s.st.shield(now, every)
	for set, elems := range noted {
		for k, e := range elems {
			out.Add(set, []byte(k), e.until, "", e.packets)
		}
	}
	out.Sort()
	if !s.ours() {
		out.Mode, out.Trusted = rules.Observe, nil
		return out, nil
	}
	f := s.frame.shield
	out.Mode, out.Preset, out.LogGroup, out.Allow = f.Mode, f.Preset, f.LogGroup, slices.Clone(f.Allow)
	out.Hold, out.Choices, out.Facts = f.Hold, f.Choices, f.Facts.Clone()
	out.Lists = slices.Clone(f.Lists)
	out.Owner, out.Devices = s.st.table.flags == ownerFlags, s.st.devices()
	return out, nil
}

// Comment is that of the table which is there, whoever made it; empty: there is none.
func (s *Shield) Comment(now time.Duration) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(now); err != nil {
		return "", err
	}
	return s.st.table.comment, nil
}

// Counted is what the table has counted which is there, whoever made it, with its
// mode and the name of its preset.
func (s *Shield) Counted(now time.Duration) (rules.Shield, error) {
	seen, err := s.Seen(now)
	if err != nil || seen.Mode == rules.Off {
		return rules.Shield{}, err
	}
	comment, err := s.Comment(now)
	if err != nil {
		return rules.Shield{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen.Mode, seen.Preset = rules.Observe, rules.PresetOf(comment)
	err = s.conn.list(unix.NFT_MSG_GETRULE, ours(), func(b []byte) {
		if table, chain, _ := decodeRule(b); table == rules.TableName && chain == "closed" && dropsAtLast(b) {
			seen.Mode = rules.Enforce
		}
	})
	if err != nil {
		return rules.Shield{}, fmt.Errorf("read rules: %w", s.giveUp(err))
	}
	return seen, nil
}

// count reads the counters anew: of neighbourhoods, and those that it returns by
// their sets.
func (s *Shield) count() (map[string]map[string]elementHeld, error) {
	for name, set := range s.st.sets {
		if !isHoods(name) || len(set.elems) == 0 {
			continue
		}
		elems, err := s.conn.readSet(s.clock, name)
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", name, explain(err))
		}
		set.elems = elems
	}
	return s.noted()
}

// counted are the sets in which rules count.
var counted = []string{rules.Probes6, rules.Others6, rules.Others4}

// noted reads what rules have counted.
func (s *Shield) noted() (map[string]map[string]elementHeld, error) {
	out := map[string]map[string]elementHeld{}
	for _, name := range counted {
		if s.st.sets[name] == nil {
			continue
		}
		elems, err := s.conn.readSet(s.clock, name)
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", name, explain(err))
		}
		out[name] = elems
	}
	return out, nil
}

// ports remembers the netlink ports of our connections: the last one and the one
// before it, whose changes may still be on their way to Watch.
type ports struct{ last, before atomic.Uint32 }

func (p *ports) used(port uint32) {
	p.before.Store(p.last.Load())
	p.last.Store(port)
}

func (p *ports) has(port uint32) bool {
	return port != 0 && (port == p.last.Load() || port == p.before.Load())
}
