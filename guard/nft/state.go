package nft

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// state is what was read of our table.
type state struct {
	gen    uint32 // generation of the rule sets that it was read in
	exists bool
	table  tableSeen
	sets   map[string]*setState
	chains []chainSeen
	mark   [32]byte // of every handle of the frame: another mark, another frame
}

type setState struct {
	setSeen
	elems map[string]elementHeld
}

// elementHeld is an element as it was last read.
type elementHeld struct {
	until   time.Duration // forever, if it has no timeout
	end     string        // of an interval
	packets uint64
	comment string
}

const forever = time.Duration(math.MaxInt64)

// clock is what the time was when the caller said it, carried on: reading takes time.
type clock struct {
	mono time.Duration
	at   time.Time
}

func (c clock) now() time.Duration { return c.mono + time.Since(c.at) }

// generation asks for the number of transactions so far.
func (c *conn) generation() (uint32, error) {
	var g generation
	if err := c.get(unix.NFT_MSG_GETGEN, nil, func(b []byte) { g = decodeGeneration(b) }); err != nil {
		return 0, fmt.Errorf("read generation: %w", explain(err))
	}
	return g.id, nil
}

// readAttempts bounds how often a table is read that changes meanwhile.
const readAttempts = 3

// read reads everything of our table, all of one generation.
func (c *conn) read(at clock) (*state, error) {
	for range readAttempts {
		before, err := c.generation()
		if err != nil {
			return nil, err
		}
		st, err := c.readOnce(at)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) {
			continue // it went away between two questions
		}
		if err != nil {
			return nil, fmt.Errorf("read table: %w", explain(err))
		}
		after, err := c.generation()
		if err != nil {
			return nil, err
		}
		if before == after {
			st.gen = after
			return st, nil
		}
	}
	return nil, errors.New("read table: somebody keeps changing the rule sets")
}

func (c *conn) readOnce(at clock) (*state, error) {
	st := &state{sets: map[string]*setState{}}
	err := c.get(unix.NFT_MSG_GETTABLE, ours(), func(b []byte) { st.table, st.exists = decodeTable(b), true })
	if errors.Is(err, unix.ENOENT) {
		return st, nil
	}
	if err != nil {
		return nil, err
	}
	if err := c.readFrame(st); err != nil {
		return nil, err
	}
	for name, s := range st.sets {
		if s.flags&(unix.NFT_SET_EVAL|unix.NFT_SET_ANONYMOUS) == 0 && !rules.IsBlocked(name) {
			if s.elems, err = c.readSet(at, name); err != nil {
				return nil, err
			}
		}
	}
	return st, nil
}

// readFrame reads sets, chains and rules, without elements.
func (c *conn) readFrame(st *state) error {
	sum := sha256.New()
	err := c.list(unix.NFT_MSG_GETSET, ours(), func(b []byte) {
		s := decodeSet(b)
		if s.flags&unix.NFT_SET_ANONYMOUS == 0 {
			st.sets[s.name] = &setState{setSeen: s}
		}
		if !rules.IsBlocked(s.name) { // those that are being filled make no other frame
			fmt.Fprintf(sum, "set %+v\n", s)
		}
	})
	if err == nil {
		st.chains, err = c.readChains()
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(sum, "table %d %d\nchains %+v\n", st.table.handle, st.table.flags, st.chains)
	err = c.list(unix.NFT_MSG_GETRULE, ours(), func(b []byte) {
		if table, chain, handle := decodeRule(b); table == rules.TableName {
			fmt.Fprintf(sum, "rule %s %d\n", chain, handle)
		}
	})
	if err != nil {
		return err
	}
	sum.Sum(st.mark[:0])
	return nil
}

// readChains reads the chains of our table; the kernel lists those of every inet table.
func (c *conn) readChains() ([]chainSeen, error) {
	var out []chainSeen
	err := c.list(unix.NFT_MSG_GETCHAIN, nil, func(b []byte) {
		if ch := decodeChain(b); ch.table == rules.TableName {
			out = append(out, ch)
		}
	})
	return out, err
}

// inOneGo is how many elements the kernel tells at once, at least.
const inOneGo = 50

// readSet reads a set, again until nothing new comes. The kernel tells a large one
// in pieces, and goes on behind as many elements as it told: where it sorts its
// hash table anew in between, some are left out (a sixth of 16,000, once in 20 times
// on a busy machine).
func (c *conn) readSet(at clock, set string) (map[string]elementHeld, error) {
	had, err := c.readSetOnce(at, set)
	for range readAttempts {
		if err != nil || len(had) <= inOneGo {
			break
		}
		var again map[string]elementHeld
		if again, err = c.readSetOnce(at, set); err != nil || len(again) == len(had) {
			return again, err
		}
		maps.Copy(had, again)
	}
	return had, err
}

func (c *conn) readSetOnce(at clock, set string) (map[string]elementHeld, error) {
	now := at.now()
	var list []elementSeen
	err := c.list(unix.NFT_MSG_GETSETELEM, ours().text(unix.NFTA_SET_ELEM_LIST_SET, set), func(b []byte) {
		list = append(list, decodeElements(b)...)
	})
	return held(now, list), err
}

// readElements reads single elements; a missing one is ENOENT.
func (c *conn) readElements(at clock, set string, elems []element) (map[string]elementHeld, error) {
	now := at.now()
	var a attrs
	for _, e := range elems {
		a = a.nest(unix.NFTA_LIST_ELEM, key(e.key))
	}
	var list []elementSeen
	err := c.get(unix.NFT_MSG_GETSETELEM, ours().text(unix.NFTA_SET_ELEM_LIST_SET, set).nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, a), func(b []byte) {
		list = append(list, decodeElements(b)...)
	})
	return held(now, list), err
}

// held turns elements that were read into those held, and pairs the ends of intervals.
func held(now time.Duration, list []elementSeen) map[string]elementHeld {
	out := make(map[string]elementHeld, len(list))
	var ends []string
	for _, e := range list {
		if e.end {
			ends = append(ends, e.key)
			continue
		}
		h := elementHeld{until: forever, packets: e.packets, comment: e.comment}
		if !e.forever {
			h.until = now + e.expires
		}
		out[e.key] = h
	}
	if len(ends) == 0 {
		return out
	}
	slices.Sort(ends)
	for k, h := range out {
		i, _ := slices.BinarySearchFunc(ends, k, func(end, k string) int { return strings.Compare(end, k+"\x00") })
		if i < len(ends) {
			h.end = ends[i]
		}
		out[k] = h
	}
	return out
}

// devices are those whose ingress one of our chains is hooked into.
func (st *state) devices() []string {
	var out []string
	for _, c := range st.chains {
		if c.hooked && c.hook == hookNumbers["ingress"] && len(c.devices) == 1 && c.name == rules.IngressName(c.devices[0]) {
			out = append(out, c.devices[0])
		}
	}
	slices.Sort(out)
	return out
}

// shield is the elements as a shield has them, of all sets that pass.
func (st *state) shield(now time.Duration, pass func(set string) bool) rules.Shield {
	var s rules.Shield
	for name, set := range st.sets {
		if !pass(name) {
			continue
		}
		sieve := st.sets[rules.SieveOf(name)]
		for k, e := range set.elems {
			if sieve != nil { // what is not in both is not closed
				e.until = min(e.until, sieve.elems[k].until)
			}
			switch {
			case name == rules.Trusted4 || name == rules.Trusted6:
				if p := rules.PrefixOf(k, e.end); p.IsValid() && p.Addr().Is6() == (name == rules.Trusted6) {
					s.Trusted = append(s.Trusted, p)
				} // a range, or *, was added by hand: the set is then not as wished, and replaced
			case e.until > now:
				s.Add(name, []byte(k), e.until, e.comment, e.packets)
			}
		}
	}
	s.Trusted = rules.Widest(s.Trusted)
	s.Sort()
	return s
}

func every(string) bool { return true }

// framing sets decide what the frame looks like.
func framing(set string) bool { return set == rules.Trusted4 || set == rules.Trusted6 || isHoods(set) }

func isHoods(set string) bool {
	return strings.HasPrefix(set, rules.Hoods4) || strings.HasPrefix(set, rules.Hoods6)
}
