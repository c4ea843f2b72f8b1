package nft

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// attrs is a list of netlink attributes being written.
type attrs []byte

func (a attrs) bytes(typ uint16, data []byte) attrs {
	n := 4 + len(data)
	a = binary.NativeEndian.AppendUint16(a, uint16(n))
	a = binary.NativeEndian.AppendUint16(a, typ)
	a = append(a, data...)
	for ; n%4 != 0; n++ {
		a = append(a, 0)
	}
	return a
}

func (a attrs) text(typ uint16, s string) attrs { return a.bytes(typ, append([]byte(s), 0)) }

func (a attrs) u32(typ uint16, v uint32) attrs {
	return a.bytes(typ, binary.BigEndian.AppendUint32(nil, v))
}

func (a attrs) u64(typ uint16, v uint64) attrs {
	return a.bytes(typ, binary.BigEndian.AppendUint64(nil, v))
}

func (a attrs) nest(typ uint16, in attrs) attrs { return a.bytes(typ|unix.NLA_F_NESTED, in) }

// each goes through a list of attributes and stops at the first that is cut short.
func each(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			typ := binary.NativeEndian.Uint16(b[2:]) & 0x3fff // NLA_TYPE_MASK
			if n < 4 || n > len(b) || !yield(typ, b[4:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// within is the attribute that a path of types leads to, nil where there is none.
func within(b []byte, path ...uint16) []byte {
	for _, want := range path {
		inner := []byte(nil)
		for typ, data := range each(b) {
			if typ == want {
				inner = data
			}
		}
		b = inner
	}
	return b
}

func textOf(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// u32Of and u64Of read a number; one of the wrong width is 0.
func u32Of(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func u64Of(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// userText finds a text in user data, which is made of type, length and value,
// a byte each for the first two.
func userText(b []byte, typ byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == typ {
			return textOf(b[2 : 2+int(b[1])])
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

func userData(typ byte, s string) []byte {
	s = s[:min(len(s), 127)]
	return append([]byte{typ, byte(len(s) + 1)}, append([]byte(s), 0)...)
}
