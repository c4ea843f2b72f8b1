package selection

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const (
	maxDistance  = 3 * time.Second           // chrony's maxdistance: worse is no time at all
	minHalfWidth = 500 * time.Microsecond    // a tiny claimed distance buys no more trust than this
	maxOffset    = 1 << 62 * time.Nanosecond // beyond half of what a Duration holds nothing can be compared
	driftPPM     = 15                        // by which a sample's error grows with its age (RFC 5905, PHI)
)

// State is what became of a server in one judgement.
type State uint8

const (
	Unusable    State = iota // its sample cannot take part
	Falseticker              // outside the interval that a majority agrees on
	Selected                 // a truechimer: part of the combined offset
)

// Candidate is a sample and how old it is.
type Candidate struct {
	Sample Sample
	Age    time.Duration
}

// Verdict is what became of one candidate, and why.
type Verdict struct {
	State  State
	Reason string // empty for the selected
}

// Result is the outcome of a judgement.
type Result struct {
	Agreed   bool
	Reason   string        // why nothing may move, where not agreed
	Offset   time.Duration // combined; positive: the servers are ahead
	Error    time.Duration // its root distance
	Stratum  uint8         // ours, one above the best of the selected
	Leap     uint8         // by majority of the selected
	Verdicts []Verdict     // one a candidate, in the same order
}

// ballot is a candidate that takes part.
type ballot struct {
	index     int
	low, high time.Duration
	width     time.Duration // half of the interval: the aged root distance
	sample    Sample
}

// Judge votes: the truechimers are those whose intervals (offset, give or take
// the root distance) share the point that most intervals share, if they are
// minAgree at least and more than half of all that are usable (RFC 5905, section
// 11.2.1). The combined offset weighs each by the inverse of its root distance
// and lies within the intersection. Three colluding servers outvote one honest
// one: no vote can tell.
//
// Any value of any field is bearable.
func Judge(cands []Candidate, minAgree int) Result {
	res := Result{Verdicts: make([]Verdict, len(cands))}
	var ballots []ballot
	for i, c := range cands {
		b, why := admit(i, c)
		if why != "" {
			res.Verdicts[i] = Verdict{Unusable, why}
			continue
		}
		ballots = append(ballots, b)
	}
	low, high, votes := intersect(ballots)
	switch {
	case len(ballots) == 0:
		res.Reason = "no usable answer"
		return res
	case votes < minAgree || 2*votes <= len(ballots):
		res.Reason = fmt.Sprintf("%d of %d servers agree, %d and a majority are needed", votes, len(ballots), max(minAgree, 1))
		for _, b := range ballots {
			res.Verdicts[b.index] = Verdict{Falseticker, "no majority agrees"}
		}
		return res
	}
	res.Agreed = true
	combine(&res, ballots, low, high, votes)
	return res
}

// admit checks a candidate and makes its interval.
func admit(i int, c Candidate) (ballot, string) {
	s := c.Sample
	switch {
	case s.Stratum < 1 || s.Stratum > 15:
		return ballot{}, fmt.Sprintf("stratum %d", s.Stratum)
	case s.Leap > 2:
		return ballot{}, "it says that it is not synchronised"
	case s.Delay < 0 || s.Dispersion < 0 || s.RootDelay < 0 || s.RootDisp < 0 || c.Age < 0:
		return ballot{}, "a negative delay or dispersion"
	case s.Offset > maxOffset || s.Offset < -maxOffset:
		return ballot{}, "an offset beyond all measure"
	case s.Delay > 2*maxDistance || s.RootDelay > 2*maxDistance || s.RootDisp > maxDistance || s.Dispersion > maxDistance || c.Age > 48*time.Hour:
		return ballot{}, fmt.Sprintf("its root distance is above %s", maxDistance)
	}
	distance := s.RootDistance() + c.Age/1_000_000*driftPPM
	if distance > maxDistance {
		return ballot{}, fmt.Sprintf("its root distance of %.3f s is above %s", distance.Seconds(), maxDistance)
	}
	w := max(distance, minHalfWidth)
	return ballot{index: i, low: s.Offset - w, high: s.Offset + w, width: w, sample: s}, ""
}

// intersect finds the smallest stretch that the most intervals share (Marzullo).
func intersect(ballots []ballot) (low, high time.Duration, votes int) {
	type edge struct {
		at   time.Duration
		open bool
	}
	var edges []edge
	for _, b := range ballots {
		edges = append(edges, edge{b.low, true}, edge{b.high, false})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		switch { // intervals that touch share a point
		case a.open && !b.open:
			return -1
		case !a.open && b.open:
			return 1
		}
		return 0
	})
	open := 0
	for i, e := range edges {
		if !e.open {
			open--
			continue
		}
		if open++; open > votes {
			votes, low, high = open, e.at, edges[i+1].at
		}
	}
	return low, high, votes
}

// combine fills in the outcome of a vote that was won.
func combine(res *Result, ballots []ballot, low, high time.Duration, votes int) {
	var sum, weights float64
	leaps := [3]int{}
	best := uint8(15)
	res.Error = maxDistance
	for _, b := range ballots {
		if b.low > high || b.high < low {
			off := b.sample.Offset
			res.Verdicts[b.index] = Verdict{Falseticker, fmt.Sprintf("offset %+.6f s is outside the interval that %d others agree on", off.Seconds(), votes)}
			continue
		}
		res.Verdicts[b.index] = Verdict{State: Selected}
		weight := 1 / b.width.Seconds()
		sum += (b.sample.Offset - low).Seconds() * weight
		weights += weight
		leaps[b.sample.Leap]++
		best = min(best, b.sample.Stratum)
		res.Error = min(res.Error, b.width)
	}
	offset := low + time.Duration(sum/weights*1e9)
	res.Offset = min(max(offset, low), high)
	res.Stratum = best + 1
	for leap, n := range leaps {
		if 2*n > votes {
			res.Leap = uint8(leap)
		}
	}
}
