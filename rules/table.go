package rules

import (
	"fmt"
	"strings"
	"time"
)

// Table is a rule set: one nftables table with all that is in it.
type Table struct {
	Name    string // in the inet family
	Comment string
	Owner   bool // table flags owner and persist; they cannot be written as text
	Sets    []Set
	Chains  []Chain
}

// Kind is what a set's keys are.
type Kind uint8

// Kinds of sets.
const (
	Addr4  Kind = iota // an IPv4 address
	Addr6              // an IPv6 address
	Tuple4             // address, port, address, port
	Tuple6
)

// Fields are the widths in bytes of the parts of a key; each part is padded to
// four bytes in the kernel.
func (k Kind) Fields() []int {
	return [...][]int{{4}, {16}, {4, 2, 4, 2}, {16, 2, 16, 2}}[k]
}

func (k Kind) String() string {
	return [...]string{
		"ipv4_addr", "ipv6_addr", "ipv4_addr . inet_service . ipv4_addr . inet_service",
		"ipv6_addr . inet_service . ipv6_addr . inet_service",
	}[k]
}

// Set is a named set.
type Set struct {
	Name     string
	Comment  string
	Kind     Kind
	Size     uint32
	Timeout  bool          // elements may have timeouts
	Default  time.Duration // of elements that have none of their own
	Interval bool          // elements are prefixes
	Dynamic  bool          // rules add elements
	Counter  bool          // every element counts the packets that matched it
	Elements []Element
}

// Element is one element of a set.
type Element struct {
	Key     string        // the key's bytes as the kernel has them, network order
	End     string        // the first key behind an interval; empty: it reaches to the last one
	Until   time.Duration // deadline, CLOCK_MONOTONIC; 0: none
	Comment string
}

// Chain is a named list of rules, hooked into the kernel's path of a packet or
// gone to from another chain.
type Chain struct {
	Name  string
	Hook  *Hook // nil: only gone to
	Rules []Rule
}

// Hook is where a chain is called. Its policy is always accept: the shield can
// only close.
type Hook struct {
	Name     string // ingress, prerouting, input, forward or postrouting
	Priority int
	Device   string // ingress only
}

// Rule is one rule.
type Rule struct {
	Exprs   []Expr
	Comment string
}

func (r Rule) String() string {
	var b strings.Builder
	for _, e := range r.Exprs {
		b.WriteString(e.String() + " ")
	}
	fmt.Fprintf(&b, "comment %q", r.Comment)
	return b.String()
}

// String is the table as nft text without the elements that have a deadline:
// its frame. The zero Table is no text.
func (t Table) String() string {
	return t.text(func(s Set, e Element) (string, bool) { return s.key(e), !s.Timeout })
}

// Text is the table as nft text with every element whose deadline is to come.
func (t Table) Text(now time.Duration) string {
	return t.text(func(s Set, e Element) (string, bool) {
		text := s.key(e)
		if s.Timeout {
			text += " timeout " + span(e.Until-now)
		}
		if e.Comment != "" {
			text += fmt.Sprintf(" comment %q", e.Comment)
		}
		return text, !s.Timeout || e.Until-now >= time.Millisecond
	})
}

// Replacing is String behind what removes the table that is there, all in one
// transaction: made first, so that there is one to remove.
func (t Table) Replacing() string { return Removing() + t.String() }

// Removing is nft text that removes the table, and is no error where there is none.
func Removing() string { return fmt.Sprintf("table inet %[1]s\ndelete table inet %[1]s\n", TableName) }

// Renewing is String behind what empties the chains and the sets without
// deadlines: what was learnt stays. nft refuses it where a set that is there was
// made otherwise.
func (t Table) Renewing() string {
	if t.Name == "" {
		return ""
	}
	bare := Table{Name: t.Name, Comment: t.Comment}
	var flush strings.Builder
	fmt.Fprintf(&flush, "flush table inet %s\n", t.Name)
	for _, s := range t.Sets {
		s.Elements = nil
		bare.Sets = append(bare.Sets, s)
		if s.Interval {
			fmt.Fprintf(&flush, "flush set inet %s %s\n", t.Name, s.Name)
		}
	}
	return bare.String() + flush.String() + t.String()
}

func (t Table) text(element func(Set, Element) (string, bool)) string {
	if t.Name == "" {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n\tcomment %q\n", t.Name, t.Comment)
	for _, s := range t.Sets {
		s.write(&b, element)
	}
	for _, c := range t.Chains {
		c.write(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s Set) write(b *strings.Builder, element func(Set, Element) (string, bool)) {
	fmt.Fprintf(b, "\n\tset %s {\n\t\ttype %s\n", s.Name, s.Kind)
	if s.Size > 0 {
		fmt.Fprintf(b, "\t\tsize %d\n", s.Size)
	}
	if flags := s.flags(); flags != "" {
		fmt.Fprintf(b, "\t\tflags %s\n", flags)
	}
	if s.Counter {
		b.WriteString("\t\tcounter\n")
	}
	if s.Default > 0 {
		fmt.Fprintf(b, "\t\ttimeout %s\n", span(s.Default))
	}
	fmt.Fprintf(b, "\t\tcomment %q\n", s.Comment)
	var list []string
	for _, e := range s.Elements {
		if text, ok := element(s, e); ok {
			list = append(list, text)
		}
	}
	if len(list) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(list, ",\n\t\t\t     "))
	}
	b.WriteString("\t}\n")
}

func (s Set) flags() string {
	var f []string
	for _, x := range []struct {
		set  bool
		name string
	}{{s.Interval, "interval"}, {s.Dynamic, "dynamic"}, {s.Timeout, "timeout"}} {
		if x.set {
			f = append(f, x.name)
		}
	}
	return strings.Join(f, ",")
}

func (c Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n\tchain %s {\n", c.Name)
	if c.Hook != nil {
		fmt.Fprintf(b, "\t\t%s\n", c.Hook)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
}

func (h Hook) String() string {
	device := ""
	if h.Device != "" {
		device = fmt.Sprintf(" device \"%s\"", h.Device)
	}
	return fmt.Sprintf("type filter hook %s%s priority %d; policy accept;", h.Name, device, h.Priority)
}
