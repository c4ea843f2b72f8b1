package nft

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// message is one change in a transaction.
type message struct {
	typ   uint16
	flags uint16
	label string // what it does, for errors
	cut   bool   // a new transaction may begin with it
	data  attrs
}

// batch collects changes of our table.
type batch struct {
	msgs  []message
	setID uint32
}

// A transaction of a batch is kept below the default send buffer of 212992
// bytes, which is all that one gets in a user namespace.
const batchSize = 128 << 10

// transactions cuts a batch that is too large for one, where it may be cut.
func (b *batch) transactions() iter.Seq[[]message] {
	return func(yield func([]message) bool) {
		for rest := b.msgs; len(rest) > 0; {
			n, size := 0, 0
			for n < len(rest) && (n == 0 || !rest[n].cut || size+len(rest[n].data) <= batchSize) {
				size += len(rest[n].data)
				n++
			}
			if !yield(rest[:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

func (b *batch) add(typ uint16, flags uint16, label string, data attrs) *message {
	b.msgs = append(b.msgs, message{typ: typ, flags: flags, label: label, data: data})
	return &b.msgs[len(b.msgs)-1]
}

func ours() attrs { return attrs(nil).text(1, rules.TableName) } // attribute 1 is the table's name everywhere

const (
	tableOwner = 0x2              // NFT_TABLE_F_OWNER
	ownerFlags = tableOwner | 0x4 // and NFT_TABLE_F_PERSIST
)

// table makes the table, or takes an orphan over.
func (b *batch) table(t rules.Table) {
	flags, label := uint32(0), "make table"
	if t.Owner {
		flags, label = ownerFlags, "make table with flags owner and persist (Linux 6.9)"
	}
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, label, ours().
		u32(unix.NFTA_TABLE_FLAGS, flags).bytes(6 /* NFTA_TABLE_USERDATA */, userData(0, t.Comment)))
}

func (b *batch) deleteTable() { b.add(unix.NFT_MSG_DELTABLE, 0, "remove table", ours()) }

func (b *batch) flushRules() { b.add(unix.NFT_MSG_DELRULE, 0, "remove rules", ours()) }

func (b *batch) deleteChain(name string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, "remove chain "+name, ours().text(unix.NFTA_CHAIN_NAME, name))
}

func (b *batch) deleteSet(name string) {
	b.add(unix.NFT_MSG_DELSET, 0, "remove set "+name, ours().text(unix.NFTA_SET_NAME, name))
}

var hookNumbers = map[string]uint32{"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4, "ingress": 5}

func (b *batch) chain(c rules.Chain) {
	a := ours().text(unix.NFTA_CHAIN_NAME, c.Name)
	label := "make chain " + c.Name
	if h := c.Hook; h != nil {
		hook := attrs(nil).u32(unix.NFTA_HOOK_HOOKNUM, hookNumbers[h.Name]).u32(unix.NFTA_HOOK_PRIORITY, uint32(h.Priority))
		if h.Device != "" {
			hook = hook.text(unix.NFTA_HOOK_DEV, h.Device)
			label += " on device " + h.Device
		}
		a = a.nest(unix.NFTA_CHAIN_HOOK, hook).u32(unix.NFTA_CHAIN_POLICY, 1 /* NF_ACCEPT */).text(unix.NFTA_CHAIN_TYPE, "filter")
	}
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, label, a)
}

// datatypes are nft's own numbers of what a key is, six bits each, and lengths.
var (
	datatypes = map[rules.Kind]uint32{rules.Addr4: 7, rules.Addr6: 8, rules.Tuple4: 7<<18 | 13<<12 | 7<<6 | 13, rules.Tuple6: 8<<18 | 13<<12 | 8<<6 | 13}
	fieldType = map[rules.Field]uint32{rules.TypeICMP4: 14, rules.TypeICMP6: 29, rules.DPortTCP: 13, rules.DPortUDP: 13, rules.Transport: 12}
)

func keyLength(k rules.Kind) (n uint32) {
	for _, w := range k.Fields() {
		n += uint32(w+3) &^ 3
	}
	return n
}

func setFlags(s rules.Set) (f uint32) {
	for flag, on := range map[uint32]bool{unix.NFT_SET_INTERVAL: s.Interval, unix.NFT_SET_TIMEOUT: s.Timeout, unix.NFT_SET_EVAL: s.Dynamic} {
		if on {
			f |= flag
		}
	}
	return f
}

func (b *batch) set(s rules.Set) {
	b.setID++
	a := ours().text(unix.NFTA_SET_NAME, s.Name).u32(unix.NFTA_SET_FLAGS, setFlags(s)).
		u32(unix.NFTA_SET_KEY_TYPE, datatypes[s.Kind]).u32(unix.NFTA_SET_KEY_LEN, keyLength(s.Kind)).u32(unix.NFTA_SET_ID, b.setID)
	if s.Size > 0 {
		a = a.nest(unix.NFTA_SET_DESC, attrs(nil).u32(unix.NFTA_SET_DESC_SIZE, s.Size))
	}
	if s.Default > 0 {
		a = a.u64(unix.NFTA_SET_TIMEOUT, uint64(s.Default.Milliseconds()))
	}
	if s.Counter {
		a = a.nest(17 /* NFTA_SET_EXPR */, attrs(nil).text(unix.NFTA_EXPR_NAME, "counter").nest(unix.NFTA_EXPR_DATA, nil))
	}
	b.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "make set "+s.Name, a.bytes(unix.NFTA_SET_USERDATA, userData(setComment, s.Comment)))
}

const setComment = 7 // NFTNL_UDATA_SET_COMMENT

// anonymous makes the nameless set of a rule and returns its number.
func (b *batch) anonymous(f rules.Field, values []uint16) uint32 {
	b.setID++
	var list attrs
	for _, v := range values {
		list = list.nest(unix.NFTA_LIST_ELEM, attrs(nil).nest(unix.NFTA_SET_ELEM_KEY, attrs(nil).bytes(unix.NFTA_DATA_VALUE, valueOf(f, v))))
	}
	a := ours().text(unix.NFTA_SET_NAME, anonymousName).u32(unix.NFTA_SET_FLAGS, unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT).
		u32(unix.NFTA_SET_KEY_TYPE, fieldType[f]).u32(unix.NFTA_SET_KEY_LEN, uint32(f.Bits()/8)).u32(unix.NFTA_SET_ID, b.setID).
		nest(unix.NFTA_SET_DESC, attrs(nil).u32(unix.NFTA_SET_DESC_SIZE, uint32(len(values))))
	b.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "make set of a rule", a)
	b.add(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "fill set of a rule", ours().text(unix.NFTA_SET_ELEM_LIST_SET, anonymousName).
		u32(unix.NFTA_SET_ELEM_LIST_SET_ID, b.setID).nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, list))
	return b.setID
}

const anonymousName = "__set%d"

func (b *batch) rule(chain string, r rules.Rule) error {
	var list attrs
	for i, e := range r.Exprs {
		steps, err := b.translate(e)
		if err != nil {
			return fmt.Errorf("translate rule %q: %w", r, err)
		}
		if i > 0 && sameKey(r.Exprs[i-1], e) {
			steps = steps[len(steps)-1:]
		}
		for _, s := range steps {
			data, err := expr.Marshal(unix.NFPROTO_INET, s)
			if err != nil {
				return fmt.Errorf("translate rule %q: %w", r, err)
			}
			list = list.nest(unix.NFTA_LIST_ELEM, data)
		}
	}
	b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "add rule to chain "+chain, ours().text(unix.NFTA_RULE_CHAIN, chain).
		nest(unix.NFTA_RULE_EXPRESSIONS, list).bytes(unix.NFTA_RULE_USERDATA, userData(0, r.Comment)))
	return nil
}

// sameKey reports whether two look-ups in a row have the same key: it is still in the
// register then.
func sameKey(a, b rules.Expr) bool {
	x, ok := a.(rules.In)
	y, also := b.(rules.In)
	return ok && also && x.Bits == y.Bits && slices.Equal(x.Fields, y.Fields)
}

// element is one element on its way into a set, or one to be removed.
type element struct {
	key, end string
	timeout  time.Duration // 0: none
	comment  string
	packets  uint64 // what its counter begins with
	counter  bool
	was      time.Duration // its deadline before it is renewed; 0: it is new
}

const perMessage = 300

// elements adds (typ NEWSETELEM) or removes (DELSETELEM) elements, in messages that
// stay below the 64 KiB an attribute can hold.
func (b *batch) elements(typ uint16, set string, interval bool, list []element) {
	verb := map[uint16]string{unix.NFT_MSG_NEWSETELEM: "add to set ", unix.NFT_MSG_DELSETELEM: "remove from set "}[typ]
	for len(list) > 0 {
		n := min(len(list), perMessage)
		var a attrs
		for _, e := range list[:n] {
			a = e.append(a, interval)
		}
		b.add(typ, unix.NLM_F_CREATE, verb+set, ours().text(unix.NFTA_SET_ELEM_LIST_SET, set).nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, a)).cut = true
		list = list[n:]
	}
}

func key(k string) attrs {
	return attrs(nil).nest(unix.NFTA_SET_ELEM_KEY, attrs(nil).bytes(unix.NFTA_DATA_VALUE, []byte(k)))
}

// append writes an element; an interval is two, its first key and, flagged, the
// first one behind it.
func (e element) append(a attrs, interval bool) attrs {
	in := key(e.key)
	if e.timeout > 0 {
		ms := uint64((e.timeout + time.Millisecond - 1) / time.Millisecond)
		in = in.u64(unix.NFTA_SET_ELEM_TIMEOUT, ms)
		if e.was != 0 { // the same timeout as before would renew nothing
			in = in.u64(unix.NFTA_SET_ELEM_EXPIRATION, ms)
		}
	}
	if e.comment != "" {
		in = in.bytes(unix.NFTA_SET_ELEM_USERDATA, userData(0, e.comment))
	}
	if e.counter {
		in = in.nest(unix.NFTA_SET_ELEM_EXPR, attrs(nil).text(unix.NFTA_EXPR_NAME, "counter").
			nest(unix.NFTA_EXPR_DATA, attrs(nil).u64(unix.NFTA_COUNTER_PACKETS, e.packets)))
	}
	a = a.nest(unix.NFTA_LIST_ELEM, in)
	if interval && e.end != "" {
		a = a.nest(unix.NFTA_LIST_ELEM, key(e.end).u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END))
	}
	return a
}

// flushSet empties a set.
func (b *batch) flushSet(set string) {
	b.add(unix.NFT_MSG_DELSETELEM, 0, "empty set "+set, ours().text(unix.NFTA_SET_ELEM_LIST_SET, set))
}
