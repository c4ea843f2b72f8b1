package rules

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Expr is one step of a rule: a match that ends the rule unless it holds, or
// something that is done. It prints itself as nft text.
type Expr interface {
	fmt.Stringer
	expr()
}

type (
	// Is holds where a field has a value.
	Is struct {
		Field Field
		Value uint16
	}
	// OneOf holds where a field has one of several values.
	OneOf struct {
		Field  Field
		Values []uint16
	}
	// Between holds where a field has a value from First to Last.
	Between struct {
		Field       Field
		First, Last uint16
	}
	// Within holds where an address is in a prefix.
	Within struct {
		Field  Field
		Prefix netip.Prefix
	}
	// In holds where the fields, one after the other, are an element of a set.
	// Bits > 0 keeps that many leading bits of a single address field. Not turns it
	// round.
	In struct {
		Fields []Field
		Bits   int
		Set    string
		Not    bool
	}
	// From holds where the packet came in by a device of that name.
	From struct{ Device string }
	// To holds where the packet goes out by a device of that name.
	To struct{ Device string }
	// Original holds where the packet goes the way of the first one of its
	// connection: it is a question and no answer.
	Original struct{}
	// SentBy holds where a socket of that user sent the packet.
	SentBy struct{ User uint32 }
	// Listening holds where a socket of the host waits for such a packet. It is the
	// kernel's own look-up and holds at the input hook only, for TCP and UDP.
	Listening struct{}
	// NTPMode compares the mode of an NTP packet (RFC 5905, section 7.3); Not turns
	// it round. It needs UDP before it.
	NTPMode struct {
		Not  bool
		Mode uint8
	}
	// Known holds where the packet belongs to a connection that conntrack knows
	// (established or related).
	Known struct{}
	// Away holds where the destination is no address of the host, at hook prerouting.
	Away struct{}
	// Translated holds where the connection was begun to an address that the host
	// publishes: its destination was translated (DNAT).
	Translated struct{}
	// Below holds for the first packets of a burst and then at a rate.
	Below struct {
		Rate, Burst uint32
		Minute      bool // Rate is of a minute, not of a second
	}
	// Note puts a field into a dynamic set, or renews it there, where that field
	// also passes Limit.
	Note struct {
		Set     string
		Field   Field
		Bits    int           // leading bits of an address that are kept; 0: all
		Timeout time.Duration // 0: the set's own
		Limit   *Below        // nil: no limit
		Count   bool          // the element counts packets
	}
	// Count counts packets and bytes.
	Count struct{}
	// Log hands the packet's beginning to an NFLOG group.
	Log struct {
		Prefix  string
		Group   uint16
		Snaplen uint32
	}
	// Accept ends the table's say in this hook.
	Accept struct{}
	// Drop ends the packet.
	Drop struct{}
	// Reject ends the packet and tells its sender that it was forbidden, or, of a TCP
	// segment, resets the connection: of an ICMPv6 error clients may take no notice.
	Reject struct{ Reset bool }
	// Goto goes on in another chain, never to return.
	Goto struct{ Chain string }
)

func (Is) expr()         {}
func (OneOf) expr()      {}
func (Between) expr()    {}
func (Within) expr()     {}
func (In) expr()         {}
func (From) expr()       {}
func (To) expr()         {}
func (Original) expr()   {}
func (SentBy) expr()     {}
func (Listening) expr()  {}
func (NTPMode) expr()    {}
func (Known) expr()      {}
func (Translated) expr() {}
func (Away) expr()       {}
func (Below) expr()      {}
func (Note) expr()       {}
func (Count) expr()      {}
func (Log) expr()        {}
func (Accept) expr()     {}
func (Drop) expr()       {}
func (Reject) expr()     {}
func (Goto) expr()       {}

func (e Is) String() string { return e.Field.String() + " " + e.Field.name(e.Value) }

func (e OneOf) String() string {
	names := make([]string, len(e.Values))
	for i, v := range e.Values {
		names[i] = e.Field.name(v)
	}
	return fmt.Sprintf("%s { %s }", e.Field, strings.Join(names, ", "))
}

func (e Between) String() string { return fmt.Sprintf("%s %d-%d", e.Field, e.First, e.Last) }
func (e Within) String() string  { return fmt.Sprintf("%s %s", e.Field, e.Prefix) }

func (e In) String() string {
	names := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		names[i] = f.String()
	}
	text := strings.Join(names, " . ")
	if e.Bits > 0 {
		text += " & " + Mask(e.Fields[0].Bits(), e.Bits).String()
	}
	if e.Not {
		text += " !="
	}
	return text + " @" + e.Set
}

func (e From) String() string   { return "iifname \"" + e.Device + "\"" }
func (e To) String() string     { return "oifname \"" + e.Device + "\"" }
func (Original) String() string { return "ct direction original" }
func (e SentBy) String() string { return fmt.Sprintf("meta skuid %d", e.User) }

// String asks for something that is so of every socket: nft has no match for
// there being one.
func (Listening) String() string { return "socket wildcard <= 1" }

func (e NTPMode) String() string {
	op := "=="
	if e.Not {
		op = "!="
	}
	return fmt.Sprintf("@th,64,8 & 0x7 %s %#x", op, e.Mode)
}

func (Translated) String() string { return "ct status dnat" }
func (Away) String() string       { return "fib daddr type != local" }
func (Known) String() string      { return "ct state established,related" }

func (e Below) String() string {
	unit := "second"
	if e.Minute {
		unit = "minute"
	}
	return fmt.Sprintf("limit rate %d/%s burst %d packets", e.Rate, unit, e.Burst)
}

func (e Note) String() string {
	text := fmt.Sprintf("update @%s { %s", e.Set, e.Field)
	if e.Bits > 0 {
		text += " & " + Mask(e.Field.Bits(), e.Bits).String()
	}
	if e.Timeout > 0 {
		text += " timeout " + span(e.Timeout)
	}
	if e.Limit != nil {
		text += " " + e.Limit.String()
	}
	if e.Count {
		text += " counter"
	}
	return text + " }"
}

func (Count) String() string { return "counter" }

func (e Log) String() string {
	return fmt.Sprintf("log prefix %q group %d snaplen %d", e.Prefix, e.Group, e.Snaplen)
}

func (Accept) String() string { return "accept" }
func (Drop) String() string   { return "drop" }

func (e Reject) String() string {
	if e.Reset {
		return "reject with tcp reset"
	}
	return "reject with icmpx admin-prohibited"
}

func (e Goto) String() string { return "goto " + e.Chain }

// Mask is the netmask with the leading bits set, as an address of a width of 32
// or 128 bits.
func Mask(width, bits int) netip.Addr {
	b := make([]byte, width/8)
	for i := range bits {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// span is a duration as nft writes it, to the millisecond.
func span(d time.Duration) string {
	ms := d.Milliseconds()
	var b strings.Builder
	for _, u := range []struct {
		name string
		ms   int64
	}{{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}} {
		if n := ms / u.ms; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			ms %= u.ms
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
