package lists

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	maxDepth = 64
	// What may be read before a value ends: the decoder keeps it all.
	maxAhead = 1 << 20
)

var errAhead = fmt.Errorf("a value is longer than %d bytes", maxAhead)

// ahead hands a file on and remembers the ends of lines that are not yet passed.
type ahead struct {
	r            io.Reader
	read, passed int64
	ends         []int64 // offsets of line ends behind passed
	line, start  int64   // lines before passed, and where the last of them ended
}

func (a *ahead) Read(b []byte) (int, error) {
	if a.read-a.passed > maxAhead {
		return 0, errAhead
	}
	n, err := a.r.Read(b)
	for i, c := range b[:n] {
		if c == '\n' {
			a.ends = append(a.ends, a.read+int64(i)+1)
		}
	}
	a.read += int64(n)
	return n, err
}

// pass goes on to an offset and returns its line and column.
func (a *ahead) pass(offset int64) (line, column int) {
	a.passed = max(a.passed, offset)
	n := 0
	for n < len(a.ends) && a.ends[n] <= offset {
		a.start = a.ends[n]
		n++
	}
	a.ends = a.ends[n:]
	a.line += int64(n)
	return int(a.line) + 1, int(max(offset-a.start, 0)) + 1
}

// misp is a warning list that is read: {"type": "cidr", "list": ["192.0.2.0/24", …], …}.
type misp struct {
	*reading
	at   *ahead
	json *json.Decoder
}

func (in *reading) readJSON(r io.Reader) {
	at := &ahead{r: r}
	m := &misp{in, at, json.NewDecoder(at)}
	if err := m.object(); err != nil {
		offset := m.json.InputOffset()
		var syntax *json.SyntaxError
		switch {
		case errors.Is(err, errEnough):
			return
		case errors.As(err, &syntax):
			offset = max(offset, syntax.Offset-1)
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			offset, err = at.read, errors.New("the end is missing")
		}
		line, column := at.pass(offset)
		in.bad(line, column, "%v", err)
	}
}

// errEnough ends reading where the errors were told.
var errEnough = errors.New("enough")

func (m *misp) object() error {
	if _, err := m.json.Token(); err != nil { // the brace that was seen
		return err
	}
	seen := map[string]bool{}
	for m.json.More() {
		token, err := m.json.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		if seen[name] {
			return fmt.Errorf("%q stands twice", name)
		}
		if name == "list" || name == "type" { // no other is kept, of which there may be millions
			seen[name] = true
		}
		if err := m.value(name); err != nil {
			return err
		}
	}
	if _, err := m.json.Token(); err != nil {
		return err
	}
	if !seen["list"] {
		return errors.New(`there is no "list"`)
	}
	if _, err := m.json.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind the end")
	}
	return nil
}

func (m *misp) value(name string) error {
	switch name {
	case "list":
		return m.entries()
	case "type":
		token, err := m.json.Token()
		if err == nil && token != "cidr" {
			err = fmt.Errorf(`"type" is %.64q, and "cidr" is wanted`, fmt.Sprint(token))
		}
		return err
	}
	return m.skip()
}

func (m *misp) entries() error {
	token, err := m.json.Token()
	if err != nil {
		return err
	}
	if token != json.Delim('[') {
		return errors.New(`"list" is no list`)
	}
	for m.json.More() {
		token, err := m.json.Token()
		if err != nil {
			return err
		}
		text, ok := token.(string)
		if !ok {
			return errors.New("a prefix in quotes is wanted")
		}
		line, column := m.at.pass(m.json.InputOffset() - int64(len(text)) - 2)
		if m.prefix(line, column, text); m.over() {
			return errEnough
		}
	}
	_, err = m.json.Token()
	return err
}

// skip passes a value over, whatever it is.
func (m *misp) skip() error {
	for depth := 0; ; {
		token, err := m.json.Token()
		if err != nil {
			return err
		}
		m.at.pass(m.json.InputOffset())
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		switch {
		case depth > maxDepth:
			return errors.New("it is nested too deeply")
		case depth == 0:
			return nil
		}
	}
}
