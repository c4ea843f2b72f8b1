package nft

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard/regular"
	"ntpveil/rules"
	"ntpveil/rules/lists"
)

// Block makes the lists of blocked prefixes those of a shield: all of them, or, after
// an error, those that were in force before. It fills sets that no rule looks at
// yet, reads them back, and changes the rules in one transaction; meanwhile the
// lists before are in force. It does nothing before Grow has put the frame up. It
// reports whether it changed anything. When ctx is done it gives up within some 20 ms,
// or when a file is read.
//
// A million prefixes take some 16 bytes each while they are on their way.
func (s *Shield) Block(ctx context.Context, now time.Duration, want rules.Shield) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if want.Mode == rules.Off {
		return false, nil
	}
	if err := s.refresh(now); err != nil {
		return false, fmt.Errorf("block lists: %w", err)
	}
	if !s.ours() {
		return false, nil
	}
	if rules.SameLists(want.Lists, s.frame.shield.Lists) {
		if len(want.Lists) == 0 || !s.meddled.Swap(false) || s.whole() {
			return false, nil
		}
		if err := s.show(now, nil); err != nil {
			return true, fmt.Errorf("block lists: %w", err)
		}
	}
	if err := s.block(ctx, now, want.Lists); err != nil {
		return false, fmt.Errorf("block lists: %w", err)
	}
	return true, nil
}

// block fills the sets of lists and shows them to the rules.
func (s *Shield) block(ctx context.Context, now time.Duration, want []rules.List) error {
	all, err := gather(ctx, want)
	if err != nil {
		return err
	}
	defer debug.FreeOSMemory()
	tallies, err := s.fill(ctx, all)
	if err == nil {
		err = s.refresh(now)
	}
	if err == nil && !s.ours() {
		err = errors.New("somebody changed the table at the same time")
	}
	if err == nil {
		err = s.show(now, want)
	}
	if err != nil {
		return errors.Join(err, s.clear(now, all))
	}
	s.blocked = tallies
	s.meddled.Store(false)
	return nil
}

// show changes the rules to look at the sets of some lists; sets that nothing looks
// at any more go in the same transaction.
func (s *Shield) show(now time.Duration, want []rules.List) error {
	w := s.frame.shield
	w.Lists = want
	w.Hoods = s.st.shield(now, isHoods).Hoods
	return s.apply(now, w, false)
}

// inForce are the lists that a frame that is about to change keeps.
func (s *Shield) inForce() []rules.List {
	if !s.ours() {
		return nil
	}
	return s.frame.shield.Lists
}

// clear removes sets that were not filled in the end.
func (s *Shield) clear(now time.Duration, all []blockedKeys) error {
	if err := s.refresh(now); err != nil {
		return err
	}
	shown := map[string]bool{}
	for _, l := range rules.Blocked(s.inForce()) {
		shown[rules.BlockedSet(s.inForce(), l.Six, l.Bits)] = true
	}
	b := &batch{}
	for _, k := range all {
		if s.st.sets[k.set.Name] != nil && !shown[k.set.Name] {
			b.deleteSet(k.set.Name)
		}
	}
	if len(b.msgs) == 0 {
		return nil
	}
	return s.commit(b)
}

// blockedKeys are the keys of one set, one behind the other, sorted, each once.
type blockedKeys struct {
	set   rules.Set
	bits  int
	width int
	keys  []byte
}

func (k blockedKeys) Len() int { return len(k.keys) / k.width }

// gather reads the files of lists.
func gather(ctx context.Context, want []rules.List) ([]blockedKeys, error) {
	var out []blockedKeys
	at := map[rules.Length]int{}
	for _, set := range (rules.Shield{Lists: want}).Sets() {
		if rules.IsBlocked(set.Name) {
			out = append(out, blockedKeys{set: set, width: set.Kind.Fields()[0]})
		}
	}
	for i, l := range rules.Blocked(want) { // in the order of the sets
		l.Prefixes = 0
		at[l], out[i].bits = i, l.Bits
		out[i].keys = make([]byte, 0, int(out[i].set.Size)*out[i].width)
	}
	for _, l := range want {
		if err := cmp.Or(ctx.Err(), gatherFrom(l, out, at)); err != nil {
			return nil, err
		}
	}
	for i := range out {
		out[i].sort()
		out[i].set.Size = uint32(out[i].Len())
	}
	return out, nil
}

func gatherFrom(l rules.List, out []blockedKeys, at map[rules.Length]int) error {
	f, err := regular.Open(l.Name)
	if err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	defer f.Close()
	changed := fmt.Errorf("read list %s: it was changed since the configuration was read: reload it", l.Name)
	strange := false
	got, errs := lists.Read(l.Name, f, func(p netip.Prefix) {
		i, known := at[rules.Length{Six: p.Addr().Is6(), Bits: p.Bits()}]
		if !known || len(out[i].keys) == cap(out[i].keys) {
			strange = true
			return
		}
		out[i].keys = appendAddr(out[i].keys, p.Addr())
	})
	if len(errs) > 0 || strange || got.Digest != l.Digest {
		return changed
	}
	return nil
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		k := a.As4()
		return append(b, k[:]...)
	}
	k := a.As16()
	return append(b, k[:]...)
}

// sort sorts keys, and leaves those out that stand twice.
func (k *blockedKeys) sort() {
	if k.width == 4 {
		list := make([]uint32, k.Len())
		for i := range list {
			list[i] = binary.BigEndian.Uint32(k.keys[4*i:])
		}
		slices.Sort(list)
		k.keys = k.keys[:0]
		for _, x := range slices.Compact(list) {
			k.keys = binary.BigEndian.AppendUint32(k.keys, x)
		}
		return
	}
	type pair struct{ high, low uint64 }
	list := make([]pair, k.Len())
	for i := range list {
		list[i] = pair{binary.BigEndian.Uint64(k.keys[16*i:]), binary.BigEndian.Uint64(k.keys[16*i+8:])}
	}
	slices.SortFunc(list, func(a, b pair) int {
		if a.high != b.high {
			return cmp.Compare(a.high, b.high)
		}
		return cmp.Compare(a.low, b.low)
	})
	k.keys = k.keys[:0]
	for _, x := range slices.Compact(list) {
		k.keys = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(k.keys, x.high), x.low)
	}
}

// tally is how it is known that a set of blocked prefixes is whole. To list a
// million elements takes the kernel 15 s, for it begins anew with every piece. But
// the set was made for just so many: it is whole when it has no room for one more.
type tally struct {
	spare  string    // a key that is not in it
	sample []element // some that are
}

const sampled = 64

func (k blockedKeys) tally(bits int) tally {
	t := tally{spare: k.spare(bits)}
	for i := 0; i < k.Len(); i += k.Len()/sampled + 1 {
		t.sample = append(t.sample, element{key: string(k.at(i))})
	}
	return t
}

func (k blockedKeys) at(i int) []byte { return k.keys[i*k.width : (i+1)*k.width] }

// spare is a key that is no prefix of the set's length, or, where every key is one,
// the first that is not there.
func (k blockedKeys) spare(bits int) string {
	key := make([]byte, k.width)
	if bits < 8*k.width {
		key[k.width-1] = 1
		return string(key)
	}
	for i := range k.Len() {
		if string(k.at(i)) != string(key) {
			break
		}
		for j := k.width - 1; j >= 0; j-- {
			if key[j]++; key[j] != 0 {
				break
			}
		}
	}
	return string(key)
}

// fill makes sets, fills them in transactions of a bounded size and reads them back.
func (s *Shield) fill(ctx context.Context, all []blockedKeys) (map[string]tally, error) {
	b := &batch{}
	for _, k := range all {
		b.set(k.set)
	}
	tallies := map[string]tally{}
	if len(b.msgs) == 0 {
		return tallies, nil
	}
	if err := s.commit(b); err != nil {
		return nil, err
	}
	for _, k := range all {
		err := s.pour(ctx, k)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, s.giveUp(err)
		}
	}
	for _, k := range all {
		want := k.tally(k.bits)
		if err := s.full(k.set.Name, want); err != nil {
			return nil, s.giveUp(err)
		}
		tallies[k.set.Name] = want
	}
	return tallies, nil
}

// An attribute holds less than 64 KiB: that is 2,300 IPv6 addresses.
const perAttribute = 63 << 10

// pour adds all keys of a set.
func (s *Shield) pour(ctx context.Context, k blockedKeys) error {
	size := 4 + 4 + 4 + k.width // three headers and the key
	step := perAttribute / size * k.width
	b := &batch{}
	for rest := k.keys; len(rest) > 0; {
		n := min(step, len(rest))
		b.keys(k.set.Name, k.width, rest[:n])
		if rest = rest[n:]; len(b.msgs) < 2 && len(rest) > 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := s.conn.commit(b); err != nil {
			return err
		}
		b.msgs = b.msgs[:0]
	}
	return nil
}

// keys adds plain elements, in one message.
func (b *batch) keys(set string, width int, keys []byte) {
	size := 12 + width
	list := make(attrs, 0, len(keys)/width*size)
	for ; len(keys) > 0; keys = keys[width:] {
		list = binary.NativeEndian.AppendUint16(list, uint16(size))
		list = binary.NativeEndian.AppendUint16(list, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED)
		list = binary.NativeEndian.AppendUint16(list, uint16(size-4))
		list = binary.NativeEndian.AppendUint16(list, unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED)
		list = binary.NativeEndian.AppendUint16(list, uint16(size-8))
		list = binary.NativeEndian.AppendUint16(list, unix.NFTA_DATA_VALUE)
		list = append(list, keys[:width]...)
	}
	b.add(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add to set "+set,
		ours().text(unix.NFTA_SET_ELEM_LIST_SET, set).nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list)).cut = true
}

// full fails unless a set is whole. It tries to add one more, in a transaction that
// fails in any case.
func (s *Shield) full(set string, want tally) error {
	b := &batch{}
	b.keys(set, len(want.spare), []byte(want.spare))
	b.deleteSet("")
	if _, err := s.conn.commit(b); !errors.Is(err, ErrFull) {
		return fmt.Errorf("read back set %s: not all that was added is there (%w)", set, err)
	}
	got, err := s.conn.readElements(s.clock, set, want.sample)
	if err != nil || len(got) != len(want.sample) {
		return fmt.Errorf("read back set %s: what was added is not there: %w", set, explain(err))
	}
	return nil
}

// whole reports whether the sets in force still hold what was read back from them.
func (s *Shield) whole() bool {
	for set, want := range s.blocked {
		if s.full(set, want) != nil {
			return false
		}
	}
	return true
}
