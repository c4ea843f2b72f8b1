package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/lab"
)

// says is a server that is ahead by so much, and claims a root dispersion that
// leaves room for a busy machine.
func says(ahead time.Duration) lab.Answer { return claims(ahead, 200*time.Millisecond) }

func claims(ahead, dispersion time.Duration) lab.Answer {
	return func(q lab.Query) []lab.Reply {
		replies := lab.Offset(ahead)(q)
		p, _ := lab.ParseNTP(replies[0].Data)
		p.RootDelay, p.RootDispersion = 0, uint32(dispersion<<16/time.Second)
		replies[0].Data = p.Bytes()
		return replies
	}
}

// Every case is put to ntpveil and to a real chronyd, which asks the same servers
// and has its minsources where ntpveil has min_agree: both synchronise or neither,
// and both name the same truechimers and falsetickers.
func TestVotesAsChronydDoes(t *testing.T) {
	const minute = time.Minute
	for _, tt := range []struct {
		name    string
		servers []lab.Answer
		want    string // a letter a server, + for * and - too; empty: nothing moves
		offset  time.Duration
	}{
		{"four good", []lab.Answer{says(0), says(0), says(0), says(0)}, "++++", 0},
		{"three good, one bad", []lab.Answer{says(0), says(minute), says(0), says(0)}, "+x++", 0},
		{"two against two", []lab.Answer{says(0), says(0), says(minute), says(minute)}, "", 0},
		{"three that collude against one", []lab.Answer{says(minute), says(0), says(minute), says(minute)}, "+x++", minute},
		{"all different", []lab.Answer{says(0), says(minute), says(2 * minute), says(-minute)}, "", 0},
		{"one bad that claims to be perfect", []lab.Answer{says(0), says(0), says(0), claims(10*time.Second, 0)}, "+++x", 0},
		{"two good, one bad: a majority that is too small", []lab.Answer{says(0), says(0), says(minute)}, "", 0},
		{"a single one", []lab.Answer{says(0)}, "+", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h, servers := electorate(t, tt.servers)
			ours, theirs := h.bothVote(servers)
			t.Logf("ntpveil: synchronised %t\n%s\nchronyd: synchronised %t\n%s", ours.Synchronized, table(ours), theirs.Synchronised, theirs.Explained)
			if want := tt.want != ""; ours.Synchronized != want || theirs.Synchronised != want {
				t.Errorf("synchronised: ntpveil %t, chronyd %t, want %t", ours.Synchronized, theirs.Synchronised, want)
			}
			sameSides(t, servers, ours, theirs, tt.want)
			if off := ours.Clock.Offset - tt.offset.Seconds(); off > 0.2 || off < -0.2 {
				t.Errorf("the offset is %f s, want %s", ours.Clock.Offset, tt.offset)
			}
			if tt.want == "+" && !strings.Contains(fmt.Sprint(ours.Weaknesses), "min-agree") {
				t.Errorf("nothing says that a single server is believed: %+v", ours.Weaknesses)
			}
		})
	}
}

// electorate is a host that is configured to ask servers which behave so.
func electorate(t *testing.T, answers []lab.Answer) (h *host, servers []netip.Addr) {
	h = install(t, lab.Options{Servers: len(answers)}, "")
	var quoted []string
	for i, a := range answers {
		s := h.lab.Server(i + 1)
		s.Answer(a)
		servers, quoted = append(servers, s.Addr6), append(quoted, fmt.Sprintf("%q", s.Addr6))
	}
	h.configure("[time]\nservers = [" + strings.Join(quoted, ", ") + "]\n")
	h.hurry()
	return h, servers
}

// bothVote has both ask, and returns what they made of it.
func (h *host) bothVote(servers []netip.Addr) (*guard.Status, lab.Vote) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 40*time.Second)
	defer cancel()
	chronyd, err := h.lab.Visitor.Voter(ctx, min(3, len(servers)), servers...)
	if err != nil {
		h.Fatal(err)
	}
	s := h.start()
	theirs, err := chronyd.Await(ctx)
	if err != nil {
		h.Fatal(err)
	}
	_ = h.program("sync").Run() // returns when the first sync was judged, whatever came of it
	ours := h.status()
	s.stop()
	return ours, theirs
}

// sameSides requires the same letters of both, and that they are those wanted.
// Which of the truechimers chronyd likes best, and whether one that a busy machine
// held up is combined, is chance; where nothing moves chronyd calls all of them
// falsetickers, or waits for more and combines none, and ntpveil selects nobody.
func sameSides(t *testing.T, servers []netip.Addr, ours *guard.Status, theirs lab.Vote, want string) {
	t.Helper()
	var our, their string
	chimer := strings.NewReplacer("*", "+", "-", "+")
	for _, a := range servers {
		for _, line := range ours.Servers {
			if line.Address == a.String() {
				our += line.Letter
			}
		}
		their += theirs.Letters[a]
	}
	if want == "" {
		if strings.ContainsAny(our+their, "*+") || len(our) != len(servers) {
			t.Errorf("nothing moves, and yet ntpveil has %q, chronyd %q", our, their)
		}
		return
	}
	if chimer.Replace(our) != want || chimer.Replace(their) != want {
		t.Errorf("ntpveil has %q, chronyd %q, want %q", our, their, want)
	}
}

func table(s *guard.Status) string {
	var b strings.Builder
	_ = printServers(&b, s)
	return b.String()
}
