package selection

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ballot is a candidate that takes part: the interval that holds the true offset
// if the server tells the truth.
type ballot struct {
	index     int
	low, high time.Duration
	sample    Sample
}

// width is half of the interval: the aged root distance, or the least that counts.
func (b ballot) width() time.Duration { return (b.high - b.low) / 2 }

// edge is an end of an interval.
type edge struct {
	at    time.Duration
	opens bool
}

// edges are the ends of all intervals in ascending order. Intervals that touch
// share a point, so at one place those that open come first.
func edges(ballots []ballot) []edge {
	var all []edge
	for _, b := range ballots {
		all = append(all, edge{b.low, true}, edge{b.high, false})
	}
	slices.SortFunc(all, func(a, b edge) int {
		switch {
		case a.at != b.at:
			return cmp.Compare(a.at, b.at)
		case a.opens == b.opens:
			return 0
		case a.opens:
			return -1
		}
		return 1
	})
	return all
}

// intersect finds what the most intervals share (Marzullo): from the first point
// that so many hold to the last. Where wide intervals hold two such stretches and
// narrow ones contradict each other, both stretches and what lies between them
// count, as in RFC 5905: refusing would let one server that is just a little off
// stop the sync.
func intersect(ballots []ballot) (low, high time.Duration, votes int) {
	open := 0
	for _, e := range edges(ballots) {
		switch {
		case e.opens:
			if open++; open > votes {
				votes, low = open, e.at
			}
		default:
			if open == votes {
				high = e.at
			}
			open--
		}
	}
	return low, high, votes
}

// split names the falsetickers and returns the others. These are in an order of
// their values alone, so that sums over them do not depend on who came first.
func split(res *Result, ballots []ballot, low, high time.Duration, votes int) []ballot {
	var selected []ballot
	for _, b := range ballots {
		if b.low > high || b.high < low {
			res.Verdicts[b.index] = Verdict{Falseticker, fmt.Sprintf("offset %+.6f s is outside the interval that %d others agree on",
				b.sample.Offset.Seconds(), votes)}
			continue
		}
		res.Verdicts[b.index] = Verdict{State: Selected}
		selected = append(selected, b)
	}
	slices.SortFunc(selected, byValue)
	return selected
}

func byValue(a, b ballot) int { return cmp.Or(cmp.Compare(a.low, b.low), cmp.Compare(a.high, b.high)) }

// sides names who is against whom in a vote that nobody won, by address: the
// largest group first, then the largest of the rest. One server is on no side.
func sides(ballots []ballot) string {
	var out []string
	rest := slices.SortedFunc(slices.Values(ballots), byValue)
	for n := len(rest); len(rest) > 0; {
		point, _, _ := intersect(rest) // which the most of them hold
		var names []string
		rest = slices.DeleteFunc(rest, func(b ballot) bool {
			with := b.low <= point && b.high >= point
			if with {
				names = append(names, b.name())
			}
			return with
		})
		slices.Sort(names)
		if out = append(out, strings.Join(names, ", ")); len(names) == n {
			return ""
		}
	}
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, " against ")
}

func (b ballot) name() string {
	if a := b.sample.Server.Addr(); a.IsValid() {
		return a.String()
	}
	return fmt.Sprintf("%+.3f s", b.sample.Offset.Seconds())
}
