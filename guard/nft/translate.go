package nft

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// place is where a field is loaded from.
type place struct {
	base   expr.PayloadBase
	offset uint32
}

const (
	network   = expr.PayloadBaseNetworkHeader
	transport = expr.PayloadBaseTransportHeader
)

var places = map[rules.Field]place{
	rules.SAddr4: {network, 12}, rules.DAddr4: {network, 16},
	rules.SAddr6: {network, 8}, rules.DAddr6: {network, 24}, rules.NextHdr6: {network, 6}, rules.HopLimit6: {network, 7}, rules.TTL4: {network, 8},
	rules.SPortUDP: {transport, 0}, rules.DPortUDP: {transport, 2}, rules.SPortTCP: {transport, 0}, rules.DPortTCP: {transport, 2},
	rules.TypeICMP4: {transport, 0}, rules.TypeICMP6: {transport, 0},
}

// load puts a field into a register.
func load(f rules.Field, reg uint32) expr.Any {
	switch f {
	case rules.Family:
		return &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}
	case rules.Transport:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}
	case rules.PortPublished:
		return &expr.Ct{Key: expr.CtKeyPROTODST, Register: reg} // of direction 0, the original one
	}
	p := places[f]
	return &expr.Payload{DestRegister: reg, Base: p.base, Offset: p.offset, Len: uint32(f.Bits() / 8)}
}

func valueOf(f rules.Field, v uint16) []byte {
	if f.Bits() == 16 {
		return binary.BigEndian.AppendUint16(nil, v)
	}
	return []byte{byte(v)}
}

// translate turns one step of a rule into the kernel's.
func (b *batch) translate(e rules.Expr) ([]expr.Any, error) {
	switch e := e.(type) {
	case rules.Is:
		return []expr.Any{load(e.Field, 1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: valueOf(e.Field, e.Value)}}, nil
	case rules.OneOf:
		return []expr.Any{load(e.Field, 1), &expr.Lookup{SourceRegister: 1, SetName: anonymousName, SetID: b.anonymous(e.Field, e.Values)}}, nil
	case rules.Between:
		return []expr.Any{load(e.Field, 1), &expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: valueOf(e.Field, e.First)},
			&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: valueOf(e.Field, e.Last)}}, nil
	case rules.Within:
		return []expr.Any{load(e.Field, 1), masked(e.Field, e.Prefix.Bits()),
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: e.Prefix.Masked().Addr().AsSlice()}}, nil
	case rules.In:
		return lookup(e), nil
	case rules.Below:
		return []expr.Any{below(e)}, nil
	case rules.Note:
		return note(e), nil
	}
	if steps := circumstance(e); steps != nil {
		return steps, nil
	}
	return act(e)
}

// circumstance translates the matches that look beside the packet, at devices,
// connections and sockets.
func circumstance(e rules.Expr) []expr.Any {
	switch e := e.(type) {
	case rules.From:
		return device(expr.MetaKeyIIFNAME, e.Device)
	case rules.To:
		return device(expr.MetaKeyOIFNAME, e.Device)
	case rules.Known:
		return anyBit(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	case rules.Translated:
		return anyBit(expr.CtKeySTATUS, 1<<5 /* IPS_DST_NAT */)
	case rules.Away:
		return []expr.Any{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)}}
	case rules.Original:
		return []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}}}
	case rules.SentBy:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, e.User)}}
	case rules.Listening:
		return []expr.Any{&expr.Socket{Key: expr.SocketKeyWildcard, Register: 1}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{1}}}
	case rules.NTPMode:
		return ntpMode(e)
	}
	return nil
}

func device(key expr.MetaKey, name string) []expr.Any {
	data := make([]byte, unix.IFNAMSIZ)
	copy(data, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}}
}

// ntpMode looks at the lowest three bits of the first byte behind the UDP header.
func ntpMode(e rules.NTPMode) []expr.Any {
	op := expr.CmpOpEq
	if e.Not {
		op = expr.CmpOpNeq
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: transport, Offset: 8, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{7}, Xor: []byte{0}},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{e.Mode}},
	}
}

// act translates the steps that match nothing.
func act(e rules.Expr) ([]expr.Any, error) {
	switch e := e.(type) {
	case rules.Count:
		return []expr.Any{&expr.Counter{}}, nil
	case rules.Log:
		return []expr.Any{&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
			Group: e.Group, Snaplen: e.Snaplen, Data: []byte(e.Prefix)}}, nil
	case rules.Accept:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
	case rules.Drop:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}, nil
	case rules.Reject:
		if e.Reset {
			return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}, nil
		}
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}, nil
	case rules.Goto:
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Chain}}, nil
	}
	return nil, fmt.Errorf("unknown step %T", e)
}

func masked(f rules.Field, bits int) expr.Any {
	n := f.Bits() / 8
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(n), Mask: rules.Mask(f.Bits(), bits).AsSlice(), Xor: make([]byte, n)}
}

// lookup loads the fields one behind the other. Registers are numbered twice:
// 1 to 4 are of 16 bytes, 8 to 23 are the same memory in steps of four.
func lookup(e rules.In) []expr.Any {
	var out []expr.Any
	reg := uint32(unix.NFT_REG32_00)
	for _, f := range e.Fields {
		out = append(out, load(f, reg))
		reg += uint32(f.Bits()+31) / 32
	}
	if e.Bits > 0 {
		out = append(out, masked(e.Fields[0], e.Bits))
	}
	return append(out, &expr.Lookup{SourceRegister: 1, SetName: e.Set, Invert: e.Not})
}

// anyBit holds where conntrack has any of some bits set.
func anyBit(key expr.CtKey, bits uint32) []expr.Any {
	mask := binary.NativeEndian.AppendUint32(nil, bits)
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func below(e rules.Below) expr.Any {
	unit := expr.LimitTimeSecond
	if e.Minute {
		unit = expr.LimitTimeMinute
	}
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(e.Rate), Unit: unit, Burst: e.Burst}
}

func note(e rules.Note) []expr.Any {
	out := []expr.Any{load(e.Field, 1)}
	if e.Bits > 0 {
		out = append(out, masked(e.Field, e.Bits))
	}
	set := &expr.Dynset{SrcRegKey: 1, SetName: e.Set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: e.Timeout}
	if e.Limit != nil {
		set.Exprs = append(set.Exprs, below(*e.Limit))
	}
	if e.Count {
		set.Exprs = append(set.Exprs, &expr.Counter{})
	}
	return append(out, set)
}
