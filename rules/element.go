package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

var linkLocal = netip.MustParsePrefix("fe80::/10")

// Sets are the sets of the shield's table, with their elements.
func (s Shield) Sets() []Set {
	sets := []Set{
		{Name: Exposed6, Kind: Addr6, Size: exposedSize, Timeout: true, Comment: "throw-away addresses under guard", Elements: exposedElements(s)},
		{Name: Solicited6, Kind: Tuple6, Size: solicitedSize, Timeout: true, Comment: "server, port, our address, port: who may answer", Elements: solicitedElements(s, true, false)},
		{Name: Solicited4, Kind: Tuple4, Size: solicitedSize, Timeout: true, Comment: "server, port, our address, port: who may answer", Elements: solicitedElements(s, false, false)},
		{Name: Keys6, Kind: Tuple6, Size: solicitedSize, Timeout: true, Comment: "server, port, our address, port: NTS key exchanges", Elements: solicitedElements(s, true, true)},
		{Name: Keys4, Kind: Tuple4, Size: solicitedSize, Timeout: true, Comment: "server, port, our address, port: NTS key exchanges", Elements: solicitedElements(s, false, true)},
		{Name: Probes6, Kind: Addr6, Size: probedSize, Timeout: true, Dynamic: true, Comment: "probes on each throw-away address"},
		{Name: Limits6, Kind: Addr6, Size: probedSize, Timeout: true, Dynamic: true, Default: limitsKept, Comment: "how much is told of each throw-away address"},
	}
	if s.alone() {
		sets = nil
	}
	sets = append(sets,
		Set{Name: Trusted6, Kind: Addr6, Interval: true, Comment: "never closed", Elements: prefixElements(s.Trusted, true)},
		Set{Name: Trusted4, Kind: Addr4, Interval: true, Comment: "never closed", Elements: prefixElements(s.Trusted, false)})
	for _, six := range []bool{true, false} {
		for _, bits := range s.lookedUp(six) {
			hoods := hoodsOf(s, six, bits)
			sets = append(sets, hoods)
			if !s.Choices.Everyone {
				sets = append(sets, sieveOf(hoods, sieveSet(six, bits)))
			}
		}
	}
	return slices.Concat(sets, s.learning(), s.blocking(), s.counting())
}

// counts reports whether packets are dropped that neither an address's guard nor a
// neighbourhood's element counts.
func (s Shield) counts() bool { return s.toOthers() == "others" || s.Choices.leafed(s.Allow) }

// counting are the sets of the networks that such packets come from. Whoever forges
// source addresses can fill them: what does not fit is dropped all the same.
func (s Shield) counting() []Set {
	if !s.counts() {
		return nil
	}
	return []Set{
		{Name: Others6, Kind: Addr6, Size: probedSize, Timeout: true, Dynamic: true, Comment: "packets of others that were closed out, by their /48"},
		{Name: Others4, Kind: Addr4, Size: probedSize, Timeout: true, Dynamic: true, Comment: "packets of others that were closed out, by their /24"},
	}
}

// alone reports whether no daemon has a part in the table: nobody fills the sets
// of exposures and neighbourhoods then.
func (s Shield) alone() bool { return s.Choices.Learn == FromOutput }

// lookedUp are the prefix lengths of neighbourhoods that a daemon fills.
func (s Shield) lookedUp(six bool) []int {
	if s.alone() {
		return nil
	}
	return hoodLengths(s, six)
}

// learning are the sets of what the kernel learns by itself. What it learns stays
// apart from neighbourhoods, for the query itself would count as one of theirs.
func (s Shield) learning() []Set {
	if s.learns() == FromNothing {
		return nil
	}
	four, six := s.Choices.Lengths()
	learnt := func(name string, kind Kind, bits int) Set {
		return Set{Name: name, Kind: kind, Size: hoodSize, Timeout: true, Dynamic: true, Comment: fmt.Sprintf("learnt in the kernel, each a /%d", bits)}
	}
	own := Widest(s.Facts.Own)
	sets := []Set{
		learnt(learnt6, Addr6, six), learnt(learnt64, Addr6, 96+four), learnt(learnt4, Addr4, four),
		{Name: own6, Kind: Addr6, Interval: true, Comment: "around what is the host's own: never learnt", Elements: prefixElements(own, true)},
		{Name: own4, Kind: Addr4, Interval: true, Comment: "around what is the host's own: never learnt", Elements: prefixElements(own, false)},
	}
	if s.learns() == FromForward {
		sets = append(sets,
			Set{Name: networks6, Kind: Addr6, Size: hoodSize, Timeout: true, Dynamic: true, Default: learnersKept, Comment: "how much is learnt from each /64"},
			Set{Name: learners6, Kind: Addr6, Size: hoodSize, Timeout: true, Dynamic: true, Default: learnersKept, Comment: "how much is learnt from each host"},
			Set{Name: learners4, Kind: Addr4, Size: hoodSize, Timeout: true, Dynamic: true, Default: learnersKept, Comment: "how much is learnt from each host"})
	}
	return sets
}

func hoodsOf(s Shield, six bool, bits int) Set {
	set := Set{Name: hoodSet(six, bits), Kind: Addr4, Size: closedSize, Timeout: true, Counter: true,
		Comment: fmt.Sprintf("closed neighbourhoods, each a /%d", bits)}
	if six {
		set.Kind = Addr6
	}
	for _, h := range s.Hoods {
		if h.Prefix.Addr().Is6() == six && h.Prefix.Bits() == bits {
			a := h.Prefix.Masked().Addr()
			set.Elements = append(set.Elements, Element{Key: string(a.AsSlice()), Until: h.Until, Comment: hoodComment(h)})
		}
	}
	return set
}

// sieveOf is the sieve's set of the same neighbourhoods.
func sieveOf(hoods Set, name string) Set {
	sieve := Set{Name: name, Kind: hoods.Kind, Size: hoods.Size, Timeout: true,
		Comment: fmt.Sprintf("the same as %s, to be looked up by every stranger's packet", hoods.Name)}
	for _, e := range hoods.Elements {
		sieve.Elements = append(sieve.Elements, Element{Key: e.Key, Until: e.Until})
	}
	return sieve
}

// hoodComment names whose neighbourhood it is; hoodServer reads it back.
func hoodComment(h Hood) string { return fmt.Sprintf("server %s, %s", h.Server, h.Prefix) }

func hoodServer(comment string) netip.Addr {
	server, _, _ := strings.Cut(strings.TrimPrefix(comment, "server "), ",")
	a, _ := netip.ParseAddr(server)
	return a
}

// hoodLengths are the prefix lengths for which there is a set: the usual one, the
// preset's, and every other one in use.
func hoodLengths(s Shield, six bool) []int {
	four, bits := s.Choices.Lengths()
	lengths := []int{usual4, four}
	if six {
		lengths = []int{usual6, bits}
	}
	for _, h := range s.Hoods {
		if h.Prefix.Addr().Is6() == six {
			lengths = append(lengths, h.Prefix.Bits())
		}
	}
	slices.Sort(lengths)
	return slices.Compact(lengths)
}

// The lengths whose sets are named without one, whatever the preset: what an
// earlier run left is read back right under any of them.
const usual4, usual6 = 24, 48

func hoodSet(six bool, bits int) string {
	if six {
		return lengthSet(Hoods6, bits, usual6)
	}
	return lengthSet(Hoods4, bits, usual4)
}

func sieveSet(six bool, bits int) string {
	if six {
		return lengthSet(sieve6, bits, usual6)
	}
	return lengthSet(sieve4, bits, usual4)
}

// SieveOf is the set that packets are looked up in before they are in a set of
// neighbourhoods; empty for any other set.
func SieveOf(set string) string {
	name, _, _ := strings.Cut(set, "_")
	switch name {
	case Hoods4:
		return sieve4 + set[len(name):]
	case Hoods6:
		return sieve6 + set[len(name):]
	}
	return ""
}

func lengthSet(name string, bits, usual int) string {
	if bits == usual {
		return name
	}
	return fmt.Sprintf("%s_%d", name, bits)
}

// hoodPrefix is the prefix of a key in a set of neighbourhoods.
func hoodPrefix(set string, key []byte) (netip.Prefix, bool) {
	name, length, other := strings.Cut(set, "_")
	bits, width := 0, 0
	switch name {
	case Hoods4:
		bits, width = usual4, 4
	case Hoods6:
		bits, width = usual6, 16
	}
	if other {
		bits, _ = strconv.Atoi(length)
	}
	a, ok := netip.AddrFromSlice(key)
	if !ok || len(key) != width || bits <= 0 || bits > 8*width {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, bits).Masked(), true
}

func exposedElements(s Shield) []Element {
	var out []Element
	for _, x := range s.Exposed {
		out = append(out, Element{Key: string(x.Addr.AsSlice()), Until: x.Until})
	}
	return out
}

func solicitedElements(s Shield, six, tcp bool) []Element {
	var out []Element
	for _, x := range s.Solicited {
		if x.Our.Addr().Is6() == six && x.TCP == tcp {
			out = append(out, Element{Key: string(tupleKey(x)), Until: x.Until})
		}
	}
	return out
}

func tupleKey(x Solicited) []byte {
	var key []byte
	for _, p := range []netip.AddrPort{x.Server, x.Our} {
		key = append(key, p.Addr().AsSlice()...)
		key = append(key, byte(p.Port()>>8), byte(p.Port()), 0, 0)
	}
	return key
}

// tupleOf reads a key of tupleKey.
func tupleOf(key []byte) (x Solicited, ok bool) {
	width := len(key)/2 - 4
	if width != 4 && width != 16 || len(key)%2 != 0 {
		return x, false
	}
	half := func(b []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(b[:width])
		return netip.AddrPortFrom(a, uint16(b[width])<<8|uint16(b[width+1]))
	}
	return Solicited{Server: half(key[:width+4]), Our: half(key[width+4:])}, true
}

// prefixElements leaves out prefixes that lie in another: a set of intervals
// refuses those that overlap.
func prefixElements(prefixes []netip.Prefix, six bool) []Element {
	var out []Element
	for _, p := range Widest(prefixes) {
		if p.Addr().Is6() == six {
			out = append(out, Element{Key: string(p.Addr().AsSlice()), End: behind(p)})
		}
	}
	return out
}

// key is an element's key as nft writes it.
func (s Set) key(e Element) string {
	if x, ok := tupleOf([]byte(e.Key)); ok && len(s.Kind.Fields()) > 1 {
		return fmt.Sprintf("%s . %d . %s . %d", x.Server.Addr(), x.Server.Port(), x.Our.Addr(), x.Our.Port())
	}
	a, _ := netip.AddrFromSlice([]byte(e.Key))
	if !s.Interval {
		return a.String()
	}
	return PrefixOf(e.Key, e.End).String()
}

// PrefixOf is the prefix that begins at key and ends before end; the zero one where
// none does.
func PrefixOf(key, end string) netip.Prefix {
	a, ok := netip.AddrFromSlice([]byte(key))
	if !ok {
		return netip.Prefix{}
	}
	for bits := range a.BitLen() + 1 {
		if p, _ := a.Prefix(bits); p.Addr() == a && behind(p) == end {
			return p
		}
	}
	return netip.Prefix{}
}

// Widest are the prefixes that lie in no other one, masked and sorted.
func Widest(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		p = p.Masked()
		inside := slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return q.Bits() < p.Bits() && q.Contains(p.Addr()) })
		if !inside && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out
}

// behind is the first address after a prefix, empty after the last one.
func behind(p netip.Prefix) string {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	if next := last.Next(); next.IsValid() {
		return string(next.AsSlice())
	}
	return ""
}

// Add puts an element that was read back from a set into the shield: the
// opposite of Compile. It reports whether the set and the key made sense.
// Dropped of an exposed address comes from set probes6, which is to be added
// after exposed6, in order (see Sort). Others are bounded by Sort.
func (s *Shield) Add(set string, key []byte, until time.Duration, comment string, packets uint64) bool {
	a, isAddr := netip.AddrFromSlice(key)
	switch set {
	case Exposed6:
		if isAddr && a.Is6() {
			s.Exposed = append(s.Exposed, Exposed{Addr: a, Until: until})
		}
		return isAddr && a.Is6()
	case Probes6:
		i, found := slices.BinarySearchFunc(s.Exposed, a, func(x Exposed, a netip.Addr) int { return x.Addr.Compare(a) })
		if found {
			s.Exposed[i].Dropped = packets
		}
		return isAddr
	case Others4, Others6:
		bits, width := usual4, 4
		if set == Others6 {
			bits, width = usual6, 16
		}
		if len(key) != width {
			return false
		}
		s.Others.Dropped += packets
		s.Others.Most = append(s.Others.Most, Other{netip.PrefixFrom(a, bits).Masked(), packets})
		return true
	case Solicited4, Solicited6, Keys4, Keys6:
		x, ok := tupleOf(key)
		if x.Until, x.TCP = until, set == Keys4 || set == Keys6; ok {
			s.Solicited = append(s.Solicited, x)
		}
		return ok
	}
	if name, _, _ := strings.Cut(set, "_"); name == sieve4 || name == sieve6 {
		return isAddr // of a neighbourhood, which is in the set of these too
	}
	p, ok := hoodPrefix(set, key)
	if ok {
		s.Hoods = append(s.Hoods, Hood{Prefix: p, Server: hoodServer(comment), Until: until, Dropped: packets})
	}
	return ok
}

// Sort puts the elements into the order that a shield has them in.
func (s *Shield) Sort() {
	slices.SortFunc(s.Exposed, func(a, b Exposed) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(s.Solicited, Solicited.Compare)
	slices.SortFunc(s.Hoods, func(a, b Hood) int { return strings.Compare(a.Prefix.String(), b.Prefix.String()) })
	o := &s.Others
	slices.SortFunc(o.Most, func(a, b Other) int {
		return cmp.Or(cmp.Compare(b.Dropped, a.Dropped), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	o.Most = slices.Clone(o.Most[:min(len(o.Most), MostOthers)])
}
