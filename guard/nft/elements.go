package nft

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

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
