// Package lists reads files of prefixes: one prefix or address a line, or the JSON
// of a MISP warning list of type cidr.
//
// A file is read as a stream: memory is bounded whatever it holds, and so is the
// number of errors, each with line and column. A file with an error has no prefix
// at all. The package is pure: it reads what it is given.
package lists

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/netip"
	"slices"
	"strings"

	"ntpveil/rules"
	"ntpveil/rules/strict"
)

// Bounds of a file.
const (
	MaxPrefixes = 2 << 20 // of all lists together, too
	maxFile     = 96 << 20
	maxLine     = 4 << 10
	maxErrors   = 20 // then reading ends
)

// reading is a file that is read.
type reading struct {
	list   rules.List
	each   func(netip.Prefix)
	counts map[rules.Length]int
	total  int
	errs   strict.Errors
}

// Read reads a list and calls each for every prefix, in the order of the file.
// Where it returns errors none of them counts.
func Read(name string, r io.Reader, each func(netip.Prefix)) (rules.List, strict.Errors) {
	in := &reading{list: rules.List{Name: name}, each: each, counts: map[rules.Length]int{}}
	sum := sha256.New()
	limited := &io.LimitedReader{R: r, N: maxFile + 1}
	in.read(bufio.NewReaderSize(io.TeeReader(limited, sum), maxLine))
	if limited.N == 0 {
		in.errs = strict.Errors{{File: name, Text: fmt.Sprintf("it is larger than %d MiB", maxFile>>20)}}
	}
	if len(in.errs) > 0 {
		return rules.List{}, in.errs
	}
	in.finish(sum)
	return in.list, nil
}

func (in *reading) finish(sum hash.Hash) {
	sum.Sum(in.list.Digest[:0])
	for l, n := range in.counts {
		l.Prefixes = n
		in.list.Lengths = append(in.list.Lengths, l)
	}
	slices.SortFunc(in.list.Lengths, func(a, b rules.Length) int {
		if a.Six != b.Six {
			return map[bool]int{false: -1, true: 1}[a.Six]
		}
		return cmp.Compare(a.Bits, b.Bits)
	})
}

// read tells the two forms apart by the first byte that is no space.
func (in *reading) read(r *bufio.Reader) {
	if mark, _ := r.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) { // an editor's byte order mark
		_, _ = r.Discard(3)
	}
	head, _ := r.Peek(maxLine)
	if bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("{")) {
		in.readJSON(r)
	} else {
		in.readLines(r)
	}
}

// over reports whether reading ends here.
func (in *reading) over() bool { return len(in.errs) >= maxErrors || in.total > MaxPrefixes }

func (in *reading) bad(line, column int, format string, args ...any) {
	in.errs = append(in.errs, strict.Place{File: in.list.Name, Line: line, Column: column}.Errorf(format, args...))
}

func (in *reading) readLines(r *bufio.Reader) {
	for line := 1; !in.over(); line++ {
		text, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			in.bad(line, 1, "the line is longer than %d bytes", maxLine)
			err = skipLine(r)
		} else {
			in.line(line, text)
		}
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			in.bad(0, 0, "read list: %v", err)
			return
		}
	}
}

func skipLine(r *bufio.Reader) error {
	for {
		_, err := r.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// line takes one line; behind # or ; stands a comment.
func (in *reading) line(line int, text []byte) {
	if i := bytes.IndexAny(text, "#;"); i >= 0 {
		text = text[:i]
	}
	bare := bytes.TrimLeft(text, " \t")
	column := len(text) - len(bare) + 1
	if bare = bytes.TrimRight(bare, " \t\r\n"); len(bare) > 0 {
		in.prefix(line, column, string(bare))
	}
}

// prefix takes one prefix.
func (in *reading) prefix(line, column int, text string) {
	p, err := parse(text)
	switch {
	case err != nil:
		in.bad(line, column, "%v", err)
		return
	case p.Bits() == 0:
		in.bad(line, column, "%s is everybody", p)
		return
	}
	if in.total++; in.total > MaxPrefixes {
		in.bad(line, column, "there are more than %d prefixes", MaxPrefixes)
		return
	}
	in.counts[rules.Length{Six: p.Addr().Is6(), Bits: p.Bits()}]++
	in.each(p)
}

// parse is rules.ParsePrefix, quicker where nothing is wrong, and brief where much is.
func parse(text string) (netip.Prefix, error) {
	if strings.IndexByte(text, '/') >= 0 {
		if p, err := netip.ParsePrefix(text); err == nil && p == p.Masked() && !p.Addr().Is4In6() {
			return p, nil
		}
	}
	const brief = 64
	if len(text) > brief {
		text = text[:brief] + "…"
	}
	return rules.ParsePrefix(text)
}
