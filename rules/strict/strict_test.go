package strict

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

func tables(name string) bool { return name == "a" || name == "a.b" }

// TestRead: entries are flat and in order, and every error has its place.
func TestRead(t *testing.T) {
	text := "top = 1\n[a]\nx = \"s\"\nb.y = [\"p\", # comment\n \"q\"]\nb = { z = true }\nx = 2\n[c]\nlost = 1\n[[a]]\n[a]\n"
	entries, errs := Read(File{"f", []byte(text)}, tables)
	got := ""
	for _, e := range entries {
		got += fmt.Sprintf("%d:%d %s %s %s\n", e.At.Line, e.At.Column, e.Key, e.Value.Kind, e.Value.Text)
		for _, x := range e.Value.Items {
			got += fmt.Sprintf("%d:%d %s\n", x.At.Line, x.At.Column, x.Text)
		}
	}
	if want := "1:1 top Integer 1\n3:1 a.x String s\n4:1 a.b.y Array \n4:8 p\n5:2 q\n6:7 a.b.z Bool true\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	want := "f:7:1: a.x stands twice\nf:8:2: unknown table [c]\nf:10:3: a: a list of tables has no meaning here\nf:11:2: [a] stands twice"
	if errs.Error() != want {
		t.Errorf("errors\n%s\nwant\n%s", errs, want)
	}
}

// TestEmptyInlineTable: it says nothing where a table may stand, and is a value
// like any other where none may.
func TestEmptyInlineTable(t *testing.T) {
	entries, errs := Read(File{"f", []byte("x = {}\na = { b = { }, y = {}, z = { w = {} } }\n")}, tables)
	got := ""
	for _, e := range entries {
		got += fmt.Sprintf("%d:%d %s %s\n", e.At.Line, e.At.Column, e.Key, e.Value.Kind)
	}
	if want := "1:1 x InlineTable\n2:16 a.y InlineTable\n2:30 a.z.w InlineTable\n"; got != want || len(errs) > 0 {
		t.Errorf("got\n%swant\n%s%v", got, want, errs)
	}
}

// TestBounds: no file below the size that is read ends the process, or keeps it busy.
func TestBounds(t *testing.T) {
	numbered := func(head, each, end string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range 90000 {
			fmt.Fprintf(&b, each, i)
		}
		return b.String() + end
	}
	for name, tt := range map[string]struct{ text, first string }{
		"arrays":        {"x=" + strings.Repeat("[", 1000000), "f: it is nested too deeply: there are more than 10000 [ and { in it"},
		"inline tables": {"x=" + strings.Repeat("{a=", 300000), "f: it is nested too deeply: there are more than 10000 [ and { in it"},
		"both":          {"x=" + strings.Repeat("[{a=", 5001), "f: it is nested too deeply: there are more than 10000 [ and { in it"},
		"as many as go": {"x=" + strings.Repeat("[", maxBrackets), "f:1:10003: expected character ] but the document ended here"},
		"dots":          {strings.Repeat("a.", 500000) + "a=1", "f:1:1: a key of more than 100 parts has no meaning"},
		"dots, a table": {"[" + strings.Repeat("a.", 500000) + "a]", "f:1:2: a key of more than 100 parts has no meaning"},
		"dots within":   {"x={y={" + strings.Repeat("a.", 500000) + "a=1}}", "f:1:7: a key of more than 100 parts has no meaning"},
		"some dots":     {strings.Repeat("a.", 99) + "a=1", ""},
		"keys":          {numbered("", "k%d=1\n", ""), "f: there are more than 1000 keys in it"},
		"one table":     {numbered("a={", "k%d=1,", "z=1}"), "f: there are more than 1000 keys in it"},
		"the same key":  {strings.Repeat("x=1\n", 250000), "f:2:1: x stands twice"},
		"tables":        {strings.Repeat("[q]\n", 2000), "f:1:2: unknown table [q]"},
		"items":         {"x=[" + strings.Repeat("'',", 300000) + "]", ""},
	} {
		began := time.Now()
		entries, errs := Read(File{"f", []byte(tt.text)}, func(name string) bool { return name[0] == 'a' })
		got := ""
		if len(errs) > 0 {
			got = errs[0].Error()
		}
		if got != tt.first || len(errs) > MaxErrors || len(entries) > maxEntries+1 || time.Since(began) > 20*time.Second {
			t.Errorf("%s: %d entries and %d errors in %s, the first is %q, want %q", name, len(entries), len(errs), time.Since(began), got, tt.first)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("x=" + strings.Repeat("[", 20000)))
	f.Add([]byte("x=" + strings.Repeat("{a=[", 2000)))
	f.Add([]byte("top = 1\n[a]\nx = \"s\"\nb = { z = [\"p\"] }\n[[a]]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, errs := Read(File{"f", text}, tables)
		lines := bytes.Count(text, []byte("\n")) + 1
		for _, e := range errs {
			if e.Line > lines || e.Text == "" {
				t.Errorf("%v is outside the file", e)
			}
		}
		for _, e := range entries {
			if e.At.Line < 1 || e.At.Line > lines || e.At.Column < 1 || e.Value == nil {
				t.Errorf("%s is at %+v", e.Key, e.At)
			}
		}
	})
}
