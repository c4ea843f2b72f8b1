package selection

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write what the scenarios print into their files")

// TestScenarios judges every case of testdata: a line a server, then what came of
// it, compared to the letter.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *rewrite {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s (go test -run TestScenarios -rewrite, then look at the difference):\n%s", f, got)
			}
		})
	}
}

// play answers a scenario: cases with an empty line between them, "#" a
// comment, "> " the question, the rest the answer.
func play(t *testing.T, text string) string {
	var out strings.Builder
	for i, part := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			out.WriteByte('\n')
		}
		agree, cands := 1, []Candidate(nil)
		for _, line := range strings.Split(part, "\n") {
			if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "> ") {
				out.WriteString(line + "\n")
			}
			if n, err := fmt.Sscanf(line, "> agree %d", &agree); n == 1 && err == nil {
				continue
			}
			if fields, ok := strings.CutPrefix(line, "> server "); ok {
				cands = append(cands, server(t, fields))
			}
		}
		out.WriteString(show(Judge(cands, agree)))
	}
	return out.String()
}

// server reads "offset=10ms delay=20ms ..."; what is not named is of a good one.
func server(t *testing.T, fields string) Candidate {
	c := Candidate{Sample: Sample{Stratum: 2, Delay: 10 * time.Millisecond, RootDelay: 10 * time.Millisecond}}
	s := &c.Sample
	for _, f := range strings.Fields(fields) {
		key, value, _ := strings.Cut(f, "=")
		var err error
		switch key {
		case "stratum":
			_, err = fmt.Sscan(value, &s.Stratum)
		case "at":
			var a netip.Addr
			a, err = netip.ParseAddr(value)
			s.Server = netip.AddrPortFrom(a, 123)
		case "leap":
			_, err = fmt.Sscan(value, &s.Leap)
		default:
			into := map[string]*time.Duration{"offset": &s.Offset, "delay": &s.Delay, "disp": &s.Dispersion,
				"rootdelay": &s.RootDelay, "rootdisp": &s.RootDisp, "age": &c.Age}[key]
			if into == nil {
				t.Fatalf("unknown word %q", f)
			}
			*into, err = time.ParseDuration(value)
		}
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
	}
	return c
}

func show(res Result) string {
	var out strings.Builder
	if res.Agreed {
		fmt.Fprintf(&out, "agreed offset=%s error=%s stratum=%d leap=%d\n", res.Offset, res.Error, res.Stratum, res.Leap)
	} else {
		fmt.Fprintf(&out, "nothing moves: %s\n", res.Reason)
	}
	for _, v := range res.Verdicts {
		name := map[State]string{Unusable: "unusable", Falseticker: "falseticker", Selected: "selected", Apart: "apart", Undecided: "undecided"}[v.State]
		fmt.Fprintln(&out, strings.TrimSpace("  "+name+" "+v.Reason))
	}
	return out.String()
}
