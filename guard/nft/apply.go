package nft

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// margin is what every timeout is longer than its deadline asks for; see the
// package's comment.
const margin = 500 * time.Millisecond

// commit sends changes; what is known of the table is then to be read anew.
func (s *Shield) commit(b *batch) error {
	if _, err := s.conn.commit(b); err != nil {
		return s.giveUp(err)
	}
	s.st = nil
	return nil
}

// fits reports whether the table can become that of a shield: its comment, flags
// and the definitions of sets never change.
func (st *state) fits(w rules.Shield) bool {
	orphan := w.Owner && st.table.flags == ownerFlags&^tableOwner
	want := uint32(0)
	if w.Owner {
		want = ownerFlags
	}
	if st.table.comment != w.Comment() || st.table.flags != want && !orphan {
		return false
	}
	w.Exposed, w.Solicited = nil, nil // it is about definitions only
	return !slices.ContainsFunc(w.Sets(), func(s rules.Set) bool {
		have := st.sets[s.Name]
		return have != nil && !rules.IsBlocked(s.Name) && (have.flags != setFlags(s) || have.datatype != datatypes[s.Kind] || have.size != s.Size || have.timeout != s.Default)
	})
}

// make puts the whole table up, in place of one that does not fit. What rules have
// counted is taken over, but of others where lists alone are why they are counted:
// Block brings these back, and begins anew.
func (s *Shield) make(now time.Duration, from rules.Shield) error {
	t, err := rules.Compile(from)
	if err != nil {
		return err
	}
	if err := needDevices(s.netns, from.Devices); err != nil {
		return err
	}
	b := &batch{}
	var noted map[string]map[string]elementHeld
	if s.st.exists {
		if noted, err = s.noted(); err != nil {
			return s.giveUp(err)
		}
		b.deleteTable()
	}
	b.table(t)
	if err := b.frame(t, func(string) bool { return false }, func(string) bool { return false }); err != nil {
		return err
	}
	for _, set := range t.Sets {
		list := s.missing(now, set, nil)
		for k, e := range noted[set.Name] {
			list = append(list, element{key: k, timeout: e.until - now, packets: e.packets, counter: true})
		}
		b.elements(unix.NFT_MSG_NEWSETELEM, set.Name, set.Interval, list)
	}
	if s.st.exists {
		b.whole()
	}
	return s.putUp(from, b)
}

// frame adds sets, chains and rules but for the sets and chains that are there.
func (b *batch) frame(t rules.Table, hasSet, hasChain func(string) bool) error {
	for _, set := range t.Sets {
		if !hasSet(set.Name) {
			b.set(set)
		}
	}
	for _, c := range t.Chains {
		if !hasChain(c.Name) {
			b.chain(c)
		}
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			if err := b.rule(c.Name, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// putUp commits a batch that changes the frame, and reads everything back.
func (s *Shield) putUp(from rules.Shield, b *batch) error {
	gen := s.st.gen
	n, err := s.conn.commit(b)
	if err != nil {
		return s.giveUp(err)
	}
	s.st, s.frame = nil, frame{}
	st, err := s.conn.read(s.clock)
	if err != nil {
		return s.giveUp(err)
	}
	if st.gen != gen+uint32(n) {
		return errors.New("verify table: somebody changed the rule sets at the same time")
	}
	from.Exposed, from.Solicited = nil, nil
	from.Devices, from.Allow, from.Trusted = slices.Clone(from.Devices), slices.Clone(from.Allow), slices.Clone(from.Trusted)
	from.Facts = from.Facts.Clone()
	s.st, s.frame = st, frame{shield: from, mark: st.mark}
	return nil
}

// apply makes the table, which fits, that of a shield: frame and elements. Where
// shrink is set it removes elements, otherwise it adds and renews them.
func (s *Shield) apply(now time.Duration, w rules.Shield, shrink bool) error {
	sets := w.Sets()
	changed := !s.ours() || !w.SameFrame(s.frame.shield) || slices.ContainsFunc(sets, func(set rules.Set) bool {
		return set.Interval && !s.st.sets[set.Name].same(set)
	})
	b := &batch{}
	if changed {
		if err := s.replace(b, w); err != nil {
			return err
		}
	}
	touched := map[string][]element{}
	for _, set := range sets {
		if shrink {
			touched[set.Name] = s.surplus(set)
			b.remove(set.Name, touched[set.Name])
		} else {
			touched[set.Name] = s.missing(now, set, s.st.sets[set.Name])
			s.insert(b, set, touched[set.Name])
		}
	}
	switch {
	case changed:
		return s.putUp(w, b)
	case len(b.msgs) == 0:
		return nil
	case shrink:
		return s.forget(b, touched)
	}
	return s.verify(now, b, touched)
}

// adopt makes an orphan ours again: a table whose owner is gone. The kernel allows
// no new base chain in the transaction that does so.
func (s *Shield) adopt(t rules.Table) error {
	if !t.Owner || s.st.table.flags == ownerFlags {
		return nil
	}
	b := &batch{}
	b.table(t)
	n, err := s.conn.commit(b)
	if err != nil {
		return s.giveUp(err)
	}
	s.st.gen += uint32(n)
	return nil
}

// replace changes the frame. Sets that stay keep their elements; chains that
// stay keep their hook, so that no packet passes between two of them.
func (s *Shield) replace(b *batch, from rules.Shield) error {
	t, err := rules.Compile(from)
	if err != nil {
		return err
	}
	if err := s.adopt(t); err != nil {
		return err
	}
	intact := s.ours()
	isChain := func(name string) bool {
		return slices.ContainsFunc(t.Chains, func(c rules.Chain) bool { return c.Name == name })
	}
	isSet := func(name string) bool {
		return slices.ContainsFunc(t.Sets, func(c rules.Set) bool { return c.Name == name })
	}
	var stays []string
	b.flushRules()
	for name := range s.st.sets { // before chains, which elements of a map may name
		if !isSet(name) {
			b.deleteSet(name)
		}
	}
	for _, c := range s.st.chains {
		switch {
		case intact && isChain(c.name):
			stays = append(stays, c.name)
		case !c.bound: // else its rule has taken it along
			b.deleteChain(c.name)
		}
	}
	var devices []string
	for _, d := range from.Devices {
		if !slices.Contains(stays, rules.IngressName(d)) {
			devices = append(devices, d)
		}
	}
	if err := needDevices(s.netns, devices); err != nil {
		return err
	}
	err = b.frame(t, func(set string) bool { return s.st.sets[set] != nil }, func(chain string) bool { return slices.Contains(stays, chain) })
	for _, set := range t.Sets {
		if have := s.st.sets[set.Name]; set.Interval && !have.same(set) {
			if have != nil {
				b.flushSet(set.Name)
			}
			b.elements(unix.NFT_MSG_NEWSETELEM, set.Name, true, s.missing(0, set, nil))
			b.join()
		}
	}
	return err
}

// same reports whether the elements of a set without timeouts are the wished ones.
func (set *setState) same(want rules.Set) bool {
	return set != nil && len(set.elems) == len(want.Elements) && !slices.ContainsFunc(want.Elements, func(e rules.Element) bool {
		have, ok := set.elems[e.Key]
		return !ok || have.end != e.End
	})
}
