package rules

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// List is a file of prefixes to block, as it was read and found right (package
// lists). The prefixes stay in the file: a million of them is no part of a wish.
type List struct {
	Name    string // path of the file
	Digest  [sha256.Size]byte
	Lengths []Length // sorted, each once
}

// Length is how many prefixes of one length a list has.
type Length struct {
	Six      bool
	Bits     int
	Prefixes int
}

// Prefixes are how many a list has, those that stand twice counted twice.
func (l List) Prefixes() (n int) {
	for _, x := range l.Lengths {
		n += x.Prefixes
	}
	return n
}

// SameLists reports whether lists have the same contents, wherever they stand.
func SameLists(a, b []List) bool {
	return slices.EqualFunc(a, b, func(a, b List) bool { return a.Digest == b.Digest })
}

func equalLists(a, b []List) bool {
	return SameLists(a, b) && slices.EqualFunc(a, b, func(a, b List) bool { return a.Name == b.Name })
}

// BlockedSet is the name of the set of all prefixes of a length in some lists.
// Lists that differ have other sets: those that come are filled while those that go
// are still in force.
func BlockedSet(lists []List, six bool, bits int) string {
	sum := sha256.New()
	for _, l := range lists {
		sum.Write(l.Digest[:])
	}
	name := blocked4
	if six {
		name = blocked6
	}
	return fmt.Sprintf("%s_%d_%x", name, bits, sum.Sum(nil)[:4])
}

// IsBlocked reports whether a set is one of blocked prefixes.
func IsBlocked(set string) bool {
	return strings.HasPrefix(set, blocked4+"_") || strings.HasPrefix(set, blocked6+"_")
}

// Blocked are the prefix lengths of all lists, each once, IPv4 first.
func Blocked(lists []List) []Length {
	var out []Length
	for _, l := range lists {
		for _, x := range l.Lengths {
			same := func(y Length) bool { return y.Six == x.Six && y.Bits == x.Bits }
			if i := slices.IndexFunc(out, same); i >= 0 {
				out[i].Prefixes += x.Prefixes
			} else {
				out = append(out, x)
			}
		}
	}
	slices.SortFunc(out, func(a, b Length) int {
		if a.Six != b.Six {
			return map[bool]int{false: -1, true: 1}[a.Six]
		}
		return cmp.Compare(a.Bits, b.Bits)
	})
	return out
}

// blocking are the sets of blocked prefixes, without their elements, and of what
// is never blocked. A set that knows its size has a table of that size and never
// sorts it anew.
func (s Shield) blocking() (sets []Set) {
	if len(s.Lists) == 0 {
		return nil
	}
	for _, l := range Blocked(s.Lists) {
		set := Set{Name: BlockedSet(s.Lists, l.Six, l.Bits), Kind: Addr4, Size: uint32(l.Prefixes),
			Comment: fmt.Sprintf("blocked prefixes, each a /%d: %d are listed", l.Bits, l.Prefixes)}
		if l.Six {
			set.Kind = Addr6
		}
		sets = append(sets, set)
	}
	return append(sets,
		Set{Name: near6, Kind: Addr6, Interval: true, Comment: "the host's own, its links, gateways and resolvers: never blocked", Elements: prefixElements(s.Facts.Near, true)},
		Set{Name: near4, Kind: Addr4, Interval: true, Comment: "the host's own, its links, gateways and resolvers: never blocked", Elements: prefixElements(s.Facts.Near, false)})
}

// blocks look up what lists block. A blocked prefix is met as a neighbourhood is
// that never opens; only a hit is looked up among what is near.
func blocks(s Shield, six bool) (out []closing) {
	field, near := SAddr4, near4
	if six {
		field, near = SAddr6, near6
	}
	for _, l := range Blocked(s.Lists) {
		if l.Six != six {
			continue
		}
		in := In{Fields: []Field{field}, Bits: l.Bits, Set: BlockedSet(s.Lists, six, l.Bits)}
		if l.Bits == field.Bits() {
			in.Bits = 0
		}
		out = append(out, closing{
			comment: fmt.Sprintf("from a blocked prefix, a /%d", l.Bits), sieve: in, in: in,
			more: []Expr{In{Fields: []Field{field}, Set: near, Not: true}, Count{}}, to: s.toOthers(),
		})
	}
	return out
}
