// Package strict reads TOML, and knows where everything stands.
//
// It is pure and keeps nothing: files come as text, go out as flat entries in the
// order in which they stand, and every error has file, line and column. What a key
// means is its caller's.
package strict

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Bounds of a file.
const (
	MaxFile   = 1 << 20 // bytes
	MaxErrors = 1000    // then reading ends
	// The parser calls itself for each bracket, and the decoder for each part of a key:
	// a million end the process, its stack being full.
	maxBrackets = 10000
	maxParts    = 100
	maxEntries  = 1000 // to find where each stands takes as long as the file
)

// File is one file's text.
type File struct {
	Name string
	Text []byte
}

// Error is one error and where it is. Line and Column begin at 1; 0: the file as
// a whole.
type Error struct {
	File         string
	Line, Column int
	Text         string
}

func (e Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// Errors are all errors of some files, in the order of files and lines.
type Errors []Error

func (e Errors) Error() string {
	var lines []string
	for _, x := range e {
		lines = append(lines, x.Error())
	}
	return strings.Join(lines, "\n")
}

// Sorted puts them into the order of files and lines, and leaves out those behind the
// first MaxErrors.
func (e Errors) Sorted(files []File) Errors {
	order := func(e Error) int { return slices.IndexFunc(files, func(f File) bool { return f.Name == e.File }) }
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e[:min(len(e), MaxErrors)]
}

// Place is where something stands. Without a line it is the file as a whole.
type Place struct {
	File         string
	Line, Column int
}

// Errorf is an error of that place.
func (p Place) Errorf(format string, args ...any) Error {
	return Error{p.File, p.Line, p.Column, fmt.Sprintf(format, args...)}
}

// Entry is one key and its value as they stand in a file.
type Entry struct {
	Key   string // dotted
	Value *Value
	At    Place
}

// Errors are what is wrong with the value, each item of a list at its own place
// (see Each).
func (e Entry) Errors(err error) Errors {
	if err == nil {
		return nil
	}
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return Errors{e.At.Errorf("%s: %s", e.Key, err)}
	}
	var out Errors
	for _, err := range several.Unwrap() {
		at := e.At
		var one itemError
		if errors.As(err, &one) {
			at = one.at
		}
		out = append(out, at.Errorf("%s: %s", e.Key, err))
	}
	return out
}

// Value is a TOML value of one of the kinds that are in use.
type Value struct {
	Kind  unstable.Kind
	Text  string // of a string or an integer; "true" or "false"
	Items []Item // of an array of strings
	Other bool   // an array of something else
}

// Item is one string of an array, and where it stands.
type Item struct {
	Text string
	At   Place
}

// itemError is an error of one item of a list, at its own place.
type itemError struct {
	at Place
	error
}

// MaxItems is how many strings a list may have. A thousand ports or prefixes are one
// message to the kernel; of 5000 ports none is taken, and nothing is closed.
const MaxItems = 1000

// Each takes every item of a list of strings; its error joins those of all of them.
func Each(v *Value, take func(s string) error) error {
	switch {
	case v.Kind != unstable.Array || v.Other:
		return fmt.Errorf("a list of strings is wanted")
	case len(v.Items) > MaxItems:
		return fmt.Errorf("%d entries, at most %d are taken", len(v.Items), MaxItems)
	}
	var errs []error
	for _, x := range v.Items {
		if err := take(x.Text); err != nil {
			errs = append(errs, itemError{x.At, err})
		}
	}
	return errors.Join(errs...)
}

// Read lists the entries of a file, tables and dotted keys made flat. A table in
// which no key can stand, as isTable says, is an error.
func Read(f File, isTable func(name string) bool) ([]Entry, Errors) {
	r := reader{file: f, isTable: isTable}
	if at, err := r.plain(); err != nil {
		return nil, Errors{at.Errorf("%s", err)}
	}
	r.parser.Reset(f.Text)
	var table string
	for !r.over() && r.parser.NextExpression() {
		e := r.parser.Expression()
		if it := e.Key(); e.Kind != unstable.Comment && it.Next() {
			r.starts = append(r.starts, int(it.Node().Raw.Offset))
		}
		switch e.Kind {
		case unstable.Table:
			table = r.table(e)
		case unstable.ArrayTable:
			if name, ok := r.name(e); ok {
				r.errs = append(r.errs, r.at(e.Key()).Errorf("%s: a list of tables has no meaning here", name))
			}
			table = "?"
		case unstable.KeyValue:
			r.entry(table, e)
		}
	}
	if len(r.entries) > maxEntries {
		r.errs = append(r.errs, Error{File: f.Name, Text: fmt.Sprintf("there are more than %d keys in it", maxEntries)})
	} else if err := r.parser.Error(); err != nil {
		r.errs = append(r.errs, r.syntax(err))
	} else if len(r.errs) == 0 {
		r.errs = r.strict()
	}
	return r.entries, r.errs
}

// over reports whether reading ends here.
func (r *reader) over() bool { return len(r.errs) >= MaxErrors || len(r.entries) > maxEntries }

// strict finds what the grammar permits and TOML does not: the parser leaves the
// digits of numbers and a table that is made in two ways to the decoder.
func (r *reader) strict() Errors {
	var decoded map[string]any
	var bad *toml.DecodeError
	err := toml.Unmarshal(r.file.Text, &decoded)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bad):
		line, column := bad.Position()
		return Errors{{r.file.Name, line, column, strings.TrimPrefix(bad.Error(), "toml: ")}}
	}
	return Errors{r.culprit().Errorf("%s", strings.TrimPrefix(err.Error(), "toml: "))}
}

// culprit is the expression from which on the decoder refuses the file, for the
// errors that it gives no place.
func (r *reader) culprit() Place {
	i := sort.Search(len(r.starts)-1, func(i int) bool {
		end := bytes.LastIndexByte(r.file.Text[:r.starts[i+1]], '\n') + 1 // each begins a line
		var decoded map[string]any
		return toml.Unmarshal(r.file.Text[:end], &decoded) != nil
	})
	return r.offset(r.starts[i])
}

// plain refuses what is no text, and says from where on.
func (r *reader) plain() (Place, error) {
	text, whole := r.file.Text, Place{File: r.file.Name}
	if len(text) > MaxFile {
		return whole, fmt.Errorf("it is larger than %d bytes", MaxFile)
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return r.offset(i), errors.New("there is a NUL byte in it")
	}
	for i := 0; i < len(text); {
		c, n := utf8.DecodeRune(text[i:])
		if c == utf8.RuneError && n == 1 {
			return r.offset(i), errors.New("it is not UTF-8")
		}
		i += n
	}
	if bytes.Count(text, []byte{'['})+bytes.Count(text, []byte{'{'}) > maxBrackets {
		return whole, fmt.Errorf("it is nested too deeply: there are more than %d [ and { in it", maxBrackets)
	}
	return whole, nil
}

// reader reads one file.
type reader struct {
	file    File
	isTable func(string) bool
	parser  unstable.Parser
	entries []Entry
	errs    Errors
	tables  []string
	starts  []int // offsets of the expressions
}

func (r *reader) table(e *unstable.Node) string {
	name, ok := r.name(e)
	if !ok {
		return "?"
	}
	if slices.Contains(r.tables, name) {
		r.errs = append(r.errs, r.at(e.Key()).Errorf("[%s] stands twice", name))
	}
	if !r.isTable(name) {
		r.errs = append(r.errs, r.at(e.Key()).Errorf("unknown table [%s]", name))
		return "?"
	}
	r.tables = append(r.tables, name)
	return name
}

// entry adds a key, or the keys of an inline table. Below an unknown table
// nothing more is said.
func (r *reader) entry(table string, e *unstable.Node) {
	if table == "?" || r.over() {
		return
	}
	name, ok := r.name(e)
	if !ok {
		return
	}
	if table != "" {
		name = table + "." + name
	}
	if e.Value().Kind == unstable.InlineTable {
		some := false
		for it := e.Value().Children(); it.Next(); some = true {
			r.entry(name, it.Node())
		}
		if some || r.isTable(name) {
			return
		} // an empty one elsewhere is an entry, so that it is missed as any other wrong value is
	}
	at := r.at(e.Key())
	if slices.ContainsFunc(r.entries, func(x Entry) bool { return x.Key == name }) {
		r.errs = append(r.errs, at.Errorf("%s stands twice", name))
		return
	}
	r.entries = append(r.entries, Entry{name, r.value(e.Value()), at})
}

func (r *reader) value(n *unstable.Node) *Value {
	v := &Value{Kind: n.Kind, Text: string(n.Data)}
	if n.Kind != unstable.Array {
		return v
	}
	v.Items = []Item{}
	for it := n.Children(); it.Next(); {
		switch it.Node().Kind {
		case unstable.String:
			x := Item{Text: string(it.Node().Data)}
			if len(v.Items) < MaxItems { // of more than that none is taken
				x.At = r.offset(int(it.Node().Raw.Offset))
			}
			v.Items = append(v.Items, x)
		case unstable.Comment:
		default:
			v.Other = true
		}
	}
	return v
}

// name joins the parts of a key with dots. A part that holds a dot itself stays quoted:
// it is another key.
func (r *reader) name(e *unstable.Node) (name string, ok bool) {
	var parts []string
	for it := e.Key(); it.Next(); {
		if len(parts) == maxParts {
			r.errs = append(r.errs, r.at(e.Key()).Errorf("a key of more than %d parts has no meaning", maxParts))
			return "", false
		}
		part := string(it.Node().Data)
		if part == "" || strings.ContainsAny(part, ". \"[]\t\n") {
			part = Quote(part)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "."), true
}

// at is where a key begins.
func (r *reader) at(it unstable.Iterator) Place {
	if !it.Next() {
		return Place{r.file.Name, 1, 1}
	}
	return r.offset(int(it.Node().Raw.Offset))
}

func (r *reader) offset(n int) Place {
	before := r.file.Text[:min(max(n, 0), len(r.file.Text))]
	line := bytes.Count(before, []byte{'\n'}) + 1
	return Place{r.file.Name, line, utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1}
}

// syntax is where the parser gave up.
func (r *reader) syntax(err error) Error {
	var p *unstable.ParserError
	if errors.As(err, &p) && len(p.Highlight) > 0 {
		return r.offset(int(r.parser.Range(p.Highlight).Offset)).Errorf("%s", p.Message)
	}
	text := err.Error()
	if p != nil {
		text = p.Message
	}
	return r.offset(len(r.file.Text)).Errorf("%s", text)
}

// Quote writes a string as TOML.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// QuoteList writes a list of strings as TOML.
func QuoteList(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, Quote(s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}
