package strict

import (
	"bytes"
	"fmt"
	"testing"
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

func FuzzRead(f *testing.F) {
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
