package nft

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What messages of the kernel say, as far as it matters here. Nothing is read
// beyond what is there; what is missing is zero.

type tableSeen struct {
	name, comment string
	flags         uint32
	handle        uint64
}

type setSeen struct {
	name                          string
	flags, datatype, keyLen, size uint32
	handle                        uint64
	timeout                       time.Duration
	table                         string
}

type chainSeen struct {
	table, name, typ string
	handle           uint64
	hooked           bool
	bound            bool // it has no name of its own, and comes and goes with a rule
	hook, policy     uint32
	priority         int32
	devices          []string
}

func (c chainSeen) equal(d chainSeen) bool {
	return c.name == d.name && c.handle == d.handle && c.hooked == d.hooked && c.hook == d.hook && c.policy == d.policy &&
		c.priority == d.priority && c.typ == d.typ && slices.Equal(c.devices, d.devices)
}

type elementSeen struct {
	key     string
	end     bool // the key is the first one behind an interval
	forever bool
	expires time.Duration
	packets uint64
	comment string
}

// body is a message without the header of netfilter.
func body(data []byte) []byte { return data[min(4, len(data)):] }

func decodeTable(b []byte) (t tableSeen) {
	for typ, data := range each(b) {
		switch typ {
		case unix.NFTA_TABLE_NAME:
			t.name = textOf(data)
		case unix.NFTA_TABLE_FLAGS:
			t.flags = u32Of(data)
		case 4: // NFTA_TABLE_HANDLE
			t.handle = u64Of(data)
		case 6: // NFTA_TABLE_USERDATA
			t.comment = userText(data, 0)
		}
	}
	return t
}

func decodeSet(b []byte) (s setSeen) {
	for typ, data := range each(b) {
		switch typ {
		case unix.NFTA_SET_TABLE:
			s.table = textOf(data)
		case unix.NFTA_SET_NAME:
			s.name = textOf(data)
		case unix.NFTA_SET_FLAGS:
			s.flags = u32Of(data)
		case unix.NFTA_SET_KEY_TYPE:
			s.datatype = u32Of(data)
		case unix.NFTA_SET_KEY_LEN:
			s.keyLen = u32Of(data)
		case unix.NFTA_SET_TIMEOUT:
			s.timeout = time.Duration(u64Of(data)) * time.Millisecond
		case 16: // NFTA_SET_HANDLE
			s.handle = u64Of(data)
		case unix.NFTA_SET_DESC:
			for typ, data := range each(data) {
				if typ == unix.NFTA_SET_DESC_SIZE {
					s.size = u32Of(data)
				}
			}
		}
	}
	return s
}

func decodeChain(b []byte) (c chainSeen) {
	for typ, data := range each(b) {
		switch typ {
		case unix.NFTA_CHAIN_TABLE:
			c.table = textOf(data)
		case unix.NFTA_CHAIN_NAME:
			c.name = textOf(data)
		case unix.NFTA_CHAIN_HANDLE:
			c.handle = u64Of(data)
		case unix.NFTA_CHAIN_POLICY:
			c.policy = u32Of(data)
		case unix.NFTA_CHAIN_TYPE:
			c.typ = textOf(data)
		case 10: // NFTA_CHAIN_FLAGS
			c.bound = u32Of(data)&4 != 0 // NFT_CHAIN_BINDING
		case unix.NFTA_CHAIN_HOOK:
			c.decodeHook(data)
		}
	}
	return c
}

func (c *chainSeen) decodeHook(b []byte) {
	c.hooked = true
	for typ, data := range each(b) {
		switch typ {
		case unix.NFTA_HOOK_HOOKNUM:
			c.hook = u32Of(data)
		case unix.NFTA_HOOK_PRIORITY:
			c.priority = int32(u32Of(data))
		case unix.NFTA_HOOK_DEV:
			c.devices = append(c.devices[:0], textOf(data))
		case 4: // NFTA_HOOK_DEVS, which also lists the one of NFTA_HOOK_DEV
			c.devices = c.devices[:0]
			for _, name := range each(data) {
				c.devices = append(c.devices, textOf(name))
			}
		}
	}
}

// decodeRule is only where a rule stands: a rule that was replaced has another handle.
func decodeRule(b []byte) (table, chain string, handle uint64) {
	for typ, data := range each(b) {
		switch typ {
		case unix.NFTA_RULE_TABLE:
			table = textOf(data)
		case unix.NFTA_RULE_CHAIN:
			chain = textOf(data)
		case unix.NFTA_RULE_HANDLE:
			handle = u64Of(data)
		}
	}
	return table, chain, handle
}

const verdictDrop = 0 // NF_DROP

// dropsAtLast reports whether a rule ends in dropping or rejecting the packet.
func dropsAtLast(b []byte) (drops bool) {
	for _, e := range each(within(b, unix.NFTA_RULE_EXPRESSIONS)) {
		name := textOf(within(e, unix.NFTA_EXPR_NAME))
		code := within(e, unix.NFTA_EXPR_DATA, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CODE)
		drops = name == "reject" || name == "immediate" && len(code) == 4 && u32Of(code) == verdictDrop
	}
	return drops
}

func decodeElements(b []byte) (out []elementSeen) {
	for typ, data := range each(b) {
		if typ != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for _, data := range each(data) {
			out = append(out, decodeElement(data))
		}
	}
	return out
}

func decodeElement(b []byte) elementSeen {
	e := elementSeen{forever: true}
	for typ, data := range each(b) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			for typ, data := range each(data) {
				if typ == unix.NFTA_DATA_VALUE {
					e.key = string(data)
				}
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = u32Of(data)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.forever, e.expires = false, time.Duration(u64Of(data))*time.Millisecond
		case unix.NFTA_SET_ELEM_USERDATA:
			e.comment = userText(data, 0)
		case unix.NFTA_SET_ELEM_EXPR:
			e.packets = decodeCounter(data)
		}
	}
	return e
}

// decodeCounter is 0 for any other expression.
func decodeCounter(b []byte) (packets uint64) {
	name := ""
	for typ, data := range each(b) {
		switch {
		case typ == unix.NFTA_EXPR_NAME:
			name = textOf(data)
		case typ == unix.NFTA_EXPR_DATA && name == "counter":
			for typ, data := range each(data) {
				if typ == unix.NFTA_COUNTER_PACKETS {
					packets = u64Of(data)
				}
			}
		}
	}
	return packets
}

// generation counts the transactions of a network namespace; the message that
// announces one says who did it.
type generation struct {
	id      uint32
	pid     uint32
	process string
}

func decodeGeneration(b []byte) (g generation) {
	for typ, data := range each(b) {
		switch typ {
		case unix.NFTA_GEN_ID:
			g.id = u32Of(data)
		case unix.NFTA_GEN_PROC_PID:
			g.pid = u32Of(data)
		case unix.NFTA_GEN_PROC_NAME:
			g.process = textOf(data)
		}
	}
	return g
}

// culprit names a process for the journal; the kernel gives the name that the
// process has given itself.
func (g generation) culprit() string {
	if g.pid == 0 {
		return "an unknown process"
	}
	name := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, g.process)
	return fmt.Sprintf("%s (PID %d)", name, g.pid)
}
