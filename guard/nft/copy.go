package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// Copy is a table as it was, whoever made it, to be put back: every chain, rule,
// set and element, in the kernel's own words, but for blocked prefixes: their sets
// are in it without what they hold. An empty one blocks nothing, and the daemon
// fills it from the files. It can be kept as JSON.
type Copy struct {
	At    time.Duration `json:"at"`         // CLOCK_MONOTONIC
	Gen   uint32        `json:"generation"` // of the rule sets, which begins with 1
	Parts []Part        `json:"parts"`      // in the order in which they are made; none: there was no table
}

// Part is one thing of a table.
type Part struct {
	Type uint16 `json:"type"`
	Data []byte `json:"data"` // attributes
}

// What of each thing is kept: the rest are numbers that the kernel gives.
var kept = map[uint16][]uint16{
	unix.NFT_MSG_NEWTABLE:   {1, 2, 6},                                                  // name, flags, user data
	unix.NFT_MSG_NEWCHAIN:   {1, 3, 4, 5, 7, 12},                                        // table, name, hook, policy, type, user data
	unix.NFT_MSG_NEWSET:     {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, setExpr, setExprs}, // table, name to description, timeout, interval, user data
	unix.NFT_MSG_NEWSETELEM: {1, 2, 3},                                                  // table, set, elements
	unix.NFT_MSG_NEWRULE:    {1, 2, 4, 5, 7},                                            // table, chain, expressions, compatibility, user data
}

const (
	setExpr  = 17 // NFTA_SET_EXPR
	setExprs = 18 // NFTA_SET_EXPRESSIONS
)

func only(typ uint16, b []byte) (out attrs) {
	for t, data := range each(b) {
		if slices.Contains(kept[typ], t) {
			out = out.bytes(t, data)
		}
	}
	return out
}

// Copy reads the whole table, and fails where it could not be put back. It changes
// nothing.
func (s *Shield) Copy(now time.Duration) (Copy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(now); err != nil {
		return Copy{}, fmt.Errorf("copy table: %w", err)
	}
	for range readAttempts {
		before, err := s.conn.generation()
		if err != nil {
			return Copy{}, s.giveUp(err)
		}
		parts, err := s.conn.parts()
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return Copy{}, s.giveUp(fmt.Errorf("copy table: %w", explain(err)))
		}
		after, err := s.conn.generation()
		if err != nil {
			return Copy{}, s.giveUp(err)
		}
		if before != after {
			continue
		}
		if err := s.rehearse(parts); err != nil {
			return Copy{}, s.giveUp(fmt.Errorf("copy table: it could not be put back: %w", err))
		}
		return Copy{At: now, Gen: after, Parts: parts}, nil
	}
	return Copy{}, errors.New("copy table: somebody keeps changing the rule sets")
}

// parts reads table, sets, chains, elements, which may name chains, and rules.
func (c *conn) parts() (out []Part, err error) {
	keep := func(typ uint16) func([]byte) {
		return func(b []byte) {
			if a := only(typ, b); tableOf(a) == rules.TableName {
				out = append(out, Part{typ, a})
			}
		}
	}
	err = c.get(unix.NFT_MSG_GETTABLE, ours(), keep(unix.NFT_MSG_NEWTABLE))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err == nil {
		err = c.list(unix.NFT_MSG_GETSET, ours(), keep(unix.NFT_MSG_NEWSET))
	}
	if err == nil {
		err = c.list(unix.NFT_MSG_GETCHAIN, nil, keep(unix.NFT_MSG_NEWCHAIN))
	}
	for _, p := range slices.Clone(out) {
		if err == nil && p.Type == unix.NFT_MSG_NEWSET && !rules.IsBlocked(p.name()) {
			set := ours().text(unix.NFTA_SET_ELEM_LIST_SET, p.name())
			err = c.list(unix.NFT_MSG_GETSETELEM, set, keep(unix.NFT_MSG_NEWSETELEM))
		}
	}
	if err == nil {
		err = c.list(unix.NFT_MSG_GETRULE, ours(), keep(unix.NFT_MSG_NEWRULE))
	}
	return out, err
}

func tableOf(b []byte) string { return find(b, 1) }

func find(b []byte, typ uint16) string {
	for t, data := range each(b) {
		if t == typ {
			return textOf(data)
		}
	}
	return ""
}

// name is the name of a set, and of the set of elements, and of the chain of a rule.
func (p Part) name() string { return find(p.Data, 2) }

func (p Part) label() string {
	switch p.Type {
	case unix.NFT_MSG_NEWSET:
		return "put back set " + p.name()
	case unix.NFT_MSG_NEWSETELEM:
		return "put back elements of set " + p.name()
	case unix.NFT_MSG_NEWCHAIN:
		return "put back chain " + find(p.Data, unix.NFTA_CHAIN_NAME)
	case unix.NFT_MSG_NEWRULE:
		return "put back rule of chain " + p.name()
	}
	return "put back table"
}

// Put puts a table back as it was, in one transaction. Elements that run out stay
// as they are now where the table of now has the same set, for what was guarded or
// closed since then is to stay so; the chain of a device that is gone stays away.
// Where no rule set changed at all since then it does nothing.
func (s *Shield) Put(now time.Duration, c Copy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(now); err != nil {
		return fmt.Errorf("put table back: %w", err)
	}
	current, err := s.conn.parts()
	if err != nil {
		return s.giveUp(fmt.Errorf("put table back: %w", explain(err)))
	}
	if s.st.gen == c.Gen && things(current) == things(c.Parts) {
		return nil
	}
	b := &batch{}
	if len(current) > 0 {
		b.deleteTable()
	}
	if err := b.parts(s.netns, c.merge(now, current)); err != nil {
		return fmt.Errorf("put table back: %w", err)
	}
	if len(b.msgs) == 0 {
		return nil
	}
	b.whole()
	s.frame = frame{}
	if err := s.commit(b); err != nil {
		return fmt.Errorf("put table back: %w", err)
	}
	return nil
}

// things counts all but elements. The kernel takes some away without a transaction:
// the table of an owner who ends and, before Linux 6.16, the chain of a device.
func things(parts []Part) (n int) {
	for _, p := range parts {
		if p.Type != unix.NFT_MSG_NEWSETELEM {
			n++
		}
	}
	return n
}

// merge is the copy with the elements that run out as they are now.
func (c Copy) merge(now time.Duration, current []Part) (out []Part) {
	have := map[string][]byte{}
	for _, p := range current {
		if p.Type == unix.NFT_MSG_NEWSET {
			have[p.name()] = p.Data
		}
	}
	fresh := map[string]bool{} // sets whose elements of now are taken
	for _, p := range c.Parts {
		if p.Type == unix.NFT_MSG_NEWSET && p.runsOut() && have[p.name()] != nil && sameKeys(p.Data, have[p.name()]) {
			fresh[p.name()] = true
		}
	}
	for _, p := range c.Parts {
		if p.Type != unix.NFT_MSG_NEWSETELEM {
			out = append(out, p)
		} else if !fresh[p.name()] {
			out = append(out, p.later(now-c.At))
		}
	}
	for _, p := range current {
		if p.Type == unix.NFT_MSG_NEWSETELEM && fresh[p.name()] {
			out = append(out, p)
		}
	}
	return out
}

// runsOut reports whether elements of a set may have timeouts.
func (p Part) runsOut() bool {
	for t, data := range each(p.Data) {
		if t == unix.NFTA_SET_FLAGS {
			return u32Of(data)&unix.NFT_SET_TIMEOUT != 0
		}
	}
	return false
}

// sameKeys reports whether the elements of one set can be those of another.
func sameKeys(a, b []byte) bool {
	for _, t := range []uint16{unix.NFTA_SET_FLAGS, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, setExpr, setExprs} {
		if find(a, t) != find(b, t) || !slices.Equal(raw(a, t), raw(b, t)) {
			return false
		}
	}
	return true
}

func raw(b []byte, typ uint16) []byte {
	for t, data := range each(b) {
		if t == typ {
			return data
		}
	}
	return nil
}

// later are elements when a time has passed, without those that ran out in it.
func (p Part) later(passed time.Duration) Part {
	var out attrs
	for t, data := range each(p.Data) {
		if t != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			out = out.bytes(t, data)
			continue
		}
		var list attrs
		for t, elem := range each(data) {
			if left, runs := expiration(elem); !runs || left > passed {
				list = list.bytes(t, aged(elem, left-passed))
			}
		}
		out = out.bytes(t, list)
	}
	return Part{p.Type, out}
}

func expiration(elem []byte) (left time.Duration, runs bool) {
	data := raw(elem, unix.NFTA_SET_ELEM_EXPIRATION)
	return time.Duration(u64Of(data)) * time.Millisecond, data != nil
}

func aged(elem []byte, left time.Duration) (out attrs) {
	for t, data := range each(elem) {
		if t == unix.NFTA_SET_ELEM_EXPIRATION {
			data = binary.BigEndian.AppendUint64(nil, uint64(left.Milliseconds()))
		}
		out = out.bytes(t, data)
	}
	return out
}

// parts makes things as they were. Sets of rules keep the names that the kernel
// gave them, by which the rules name them.
func (b *batch) parts(netns int, list []Part) error {
	gone := map[string]bool{}
	for _, p := range list {
		data := attrs(p.Data)
		switch p.Type {
		case unix.NFT_MSG_NEWTABLE:
			data = ownerless(data)
		case unix.NFT_MSG_NEWSET:
			b.setID++
			data = slices.Clone(data).u32(unix.NFTA_SET_ID, b.setID)
		case unix.NFT_MSG_NEWCHAIN:
			seen := decodeChain(p.Data)
			there, err := existing(netns, seen.devices)
			if err != nil {
				return err
			}
			if gone[seen.name] = len(seen.devices) > 0 && len(there) == 0; gone[seen.name] {
				continue
			}
		case unix.NFT_MSG_NEWRULE:
			if gone[p.name()] {
				continue
			}
		}
		b.add(p.Type, unix.NLM_F_CREATE|unix.NLM_F_APPEND, p.label(), data)
	}
	return nil
}

// ownerless is a table as its owner leaves it: whoever puts it back ends soon.
func ownerless(table attrs) (out attrs) {
	for t, data := range each(table) {
		if t == unix.NFTA_TABLE_FLAGS {
			out = out.u32(t, u32Of(data)&^tableOwner)
		} else {
			out = out.bytes(t, data)
		}
	}
	return out
}

// Remove takes the table away, and reports whether there was one.
func (s *Shield) Remove(now time.Duration) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refresh(now); err != nil {
		return false, fmt.Errorf("remove table: %w", err)
	}
	if !s.st.exists {
		return false, nil
	}
	return true, s.shrink(now, rules.Shield{})
}

// Comment is the comment of the table; empty: there was none.
func (c Copy) Comment() string {
	for _, p := range c.Parts {
		if p.Type == unix.NFT_MSG_NEWTABLE {
			return decodeTable(p.Data).comment
		}
	}
	return ""
}
