package nft

import (
	"errors"
	"fmt"
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
	orphan := w.Owner && st.table.flags == ownerFlags&^0x2
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
		return have != nil && (have.flags != setFlags(s) || have.datatype != datatypes[s.Kind] || have.size != s.Size || have.timeout != s.Default)
	})
}

// make puts the whole table up, in place of one that does not fit. The counts of
// probes are taken over.
func (s *Shield) make(now time.Duration, from rules.Shield) error {
	t, err := rules.Compile(from)
	if err != nil {
		return err
	}
	if err := needDevices(s.netns, from.Devices); err != nil {
		return err
	}
	b := &batch{}
	var probes []element
	if s.st.exists {
		if old := s.st.sets[rules.Probes6]; old != nil {
			counts, err := s.conn.readSet(s.clock, rules.Probes6)
			if err != nil {
				return s.giveUp(err)
			}
			for k, e := range counts {
				probes = append(probes, element{key: k, timeout: e.until - now, packets: e.packets, counter: true})
			}
		}
		b.deleteTable()
	}
	b.table(t)
	if err := b.frame(t, func(string) bool { return false }, func(string) bool { return false }); err != nil {
		return err
	}
	for _, set := range t.Sets {
		b.elements(unix.NFT_MSG_NEWSETELEM, set.Name, set.Interval, s.missing(now, set, nil))
	}
	b.elements(unix.NFT_MSG_NEWSETELEM, rules.Probes6, false, probes)
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
	for _, c := range s.st.chains {
		if intact && isChain(c.name) {
			stays = append(stays, c.name)
		} else {
			b.deleteChain(c.name)
		}
	}
	for name := range s.st.sets {
		if !isSet(name) {
			b.deleteSet(name)
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

// missing are the elements that the kernel lacks or holds for too short a time.
// With have nil they are all of them; those of intervals change with the frame.
func (s *Shield) missing(now time.Duration, set rules.Set, have *setState) []element {
	if have != nil && set.Interval {
		return nil
	}
	latest := map[string]int{}
	var out []element
	for _, e := range set.Elements {
		n := element{key: e.Key, end: e.End, comment: e.Comment}
		if set.Timeout {
			if n.timeout = e.Until - now; n.timeout < time.Millisecond {
				continue
			}
			n.timeout += min(margin, forever-n.timeout)
		}
		if have != nil {
			old, ok := have.elems[e.Key]
			if ok && old.until >= e.Until {
				continue
			}
			n.packets, n.counter, n.was = old.packets, ok && set.Counter, old.until
		}
		if i, twice := latest[e.Key]; twice {
			out[i].timeout = max(out[i].timeout, n.timeout)
			continue
		}
		latest[e.Key] = len(out)
		out = append(out, n)
	}
	return out
}

// surplus are the elements that are wanted no longer. Exposed addresses run out
// by themselves, and those of intervals go with the frame.
func (s *Shield) surplus(set rules.Set) []element {
	have := s.st.sets[set.Name]
	if have == nil || set.Name == rules.Exposed6 || set.Interval || set.Dynamic {
		return nil
	}
	wanted := make(map[string]bool, len(set.Elements))
	for _, e := range set.Elements {
		wanted[e.Key] = true
	}
	var out []element
	for k := range have.elems {
		if !wanted[k] {
			out = append(out, element{key: k})
		}
	}
	return out
}

// insert adds and renews elements.
func (s *Shield) insert(b *batch, set rules.Set, list []element) {
	var fresh, old []element
	for _, e := range list {
		if e.was != 0 && s.renewByReplacing {
			old = append(old, e)
		} else {
			e.counter = false // it counts on, or begins at 0
			fresh = append(fresh, e)
		}
	}
	b.elements(unix.NFT_MSG_NEWSETELEM, set.Name, set.Interval, fresh)
	b.renew(set.Name, old)
}

func has(m map[string]elementHeld, k string) bool { _, ok := m[k]; return ok }

// renew replaces elements in one transaction, their counts kept. A missing element
// would fail the whole transaction, and these may expire at any moment: adding
// them first makes sure that there is one to remove.
func (b *batch) renew(set string, list []element) {
	for part := range slices.Chunk(list, perMessage) {
		b.remove(set, part)
		b.elements(unix.NFT_MSG_NEWSETELEM, set, false, part)
		b.join()
	}
}

// remove removes elements that may expire at any moment; see renew.
func (b *batch) remove(set string, list []element) {
	for part := range slices.Chunk(list, perMessage) {
		plain := make([]element, len(part))
		for i, e := range part {
			plain[i] = element{key: e.key}
		}
		b.elements(unix.NFT_MSG_NEWSETELEM, set, false, plain)
		b.elements(unix.NFT_MSG_DELSETELEM, set, false, plain)
		b.join()
	}
}

// join keeps the last message in the transaction of the one before it.
func (b *batch) join() { b.msgs[len(b.msgs)-1].cut = false }

// whole keeps all of a batch in one transaction.
func (b *batch) whole() {
	for i := range b.msgs {
		b.msgs[i].cut = false
	}
}

// forget commits removals.
func (s *Shield) forget(b *batch, gone map[string][]element) error {
	n, err := s.conn.commit(b)
	if err != nil {
		return s.giveUp(err)
	}
	for set, list := range gone {
		for _, e := range list {
			delete(s.st.sets[set].elems, e.key)
		}
	}
	return s.settle(n)
}

// settle takes note of our own transactions, which count for none where they
// changed nothing; if there were others meanwhile, everything is read anew.
func (s *Shield) settle(n int) error {
	gen, err := s.conn.generation()
	if err != nil {
		return s.giveUp(err)
	}
	if gen != s.st.gen && gen != s.st.gen+uint32(n) {
		s.st = nil
		return nil
	}
	s.st.gen = gen
	return nil
}

// verify commits additions and reads them back.
func (s *Shield) verify(now time.Duration, b *batch, touched map[string][]element) error {
	n, err := s.conn.commit(b)
	if err != nil {
		return s.giveUp(err)
	}
	again, left := &batch{}, map[string][]element{}
	for set, list := range touched {
		if err := s.readBack(set, list); err != nil {
			return s.giveUp(err)
		}
		left[set] = s.unrenewed(now, set, list)
		again.renew(set, left[set])
	}
	if err := s.settle(n); err != nil || s.st == nil || len(again.msgs) == 0 || s.renewByReplacing {
		return err
	}
	s.renewByReplacing = true
	return s.verify(now, again, left)
}

// unrenewed are the elements whose deadline stayed nearer to where it was than to
// where it was to go.
func (s *Shield) unrenewed(now time.Duration, set string, list []element) []element {
	var out []element
	for _, e := range list {
		got := s.st.sets[set].elems[e.key].until
		if e.was != 0 && now+e.timeout-got > got-e.was {
			out = append(out, e)
		}
	}
	return out
}

// readBackSingly is up to how many elements are asked for one by one: a set of
// 8000 takes milliseconds to list, an element 5 µs.
const readBackSingly = 64

func (s *Shield) readBack(set string, list []element) error {
	have := s.st.sets[set]
	if len(list) == 0 {
		return nil
	}
	var got map[string]elementHeld
	var err error
	if len(list) > readBackSingly {
		got, err = s.conn.readSet(s.clock, set)
		have.elems = got
	} else if got, err = s.conn.readElements(s.clock, set, list); err == nil {
		for k, e := range got {
			have.elems[k] = e
		}
	}
	if err != nil {
		return fmt.Errorf("read back set %s: %w", set, explain(err))
	}
	for _, e := range list {
		if !has(got, e.key) {
			return fmt.Errorf("read back set %s: an element that was added is not there", set)
		}
	}
	return nil
}
