package selection

import (
	"fmt"
	"time"
)

const (
	maxDistance  = 3 * time.Second           // chrony's maxdistance: worse is no time at all
	minHalfWidth = 500 * time.Microsecond    // a tiny claimed distance buys no more trust than this
	maxOffset    = 1 << 62 * time.Nanosecond // 146 years: beyond it a step of the clock is no more a Duration
	driftPPM     = 15                        // by which a sample's error grows with its age (RFC 5905, PHI)

	leastCombined = 3 // RFC 5905, NMIN: so few are combined whatever is between them
	farApart      = 3 // times the spread of the others: no chance any more
)

// State is what became of a server in one judgement.
type State uint8

const (
	Unusable    State = iota // its sample cannot take part
	Falseticker              // outside the interval that a majority agrees on
	Selected                 // a truechimer: part of the combined offset
	Apart                    // a truechimer that is far from where the others are close together: not combined
	Undecided                // usable, but too few agree: nobody can say who is right
)

// Candidate is a sample and how old it is.
type Candidate struct {
	Sample Sample
	Age    time.Duration // negative counts as none
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

// Judge votes: the truechimers are those whose intervals (offset, give or take
// the root distance) share the point that most intervals share, if they are
// minAgree at least and more than half of all that are usable (RFC 5905, section
// 11.2.1). Any value of any field is bearable.
func Judge(cands []Candidate, minAgree int) Result {
	res := Result{Verdicts: make([]Verdict, len(cands))}
	minAgree = max(minAgree, 1)
	var ballots []ballot
	for i, c := range cands {
		b, why := admit(c)
		if why != "" {
			res.Verdicts[i] = Verdict{Unusable, why}
			continue
		}
		b.index = i
		ballots = append(ballots, b)
	}
	low, high, votes := intersect(ballots)
	if why := lost(votes, len(ballots), minAgree); why != "" {
		res.Reason = why + sides(ballots)
		for _, b := range ballots {
			res.Verdicts[b.index] = Verdict{Undecided, why}
		}
		return res
	}
	res.Agreed = true
	chimers, usable := split(&res, ballots, low, high, votes), len(ballots)
	combine(&res, chimers, cluster(&res, chimers, max(minAgree, leastCombined, usable/2+1)), usable, low, high)
	return res
}

// admit checks a candidate and makes its interval.
func admit(c Candidate) (ballot, string) {
	s := c.Sample
	switch {
	case s.Stratum < 1 || s.Stratum > 15:
		return ballot{}, fmt.Sprintf("stratum %d is not between 1 and 15", s.Stratum)
	case s.Leap > 2:
		return ballot{}, "it says that it is not synchronised"
	case s.Delay < 0 || s.Dispersion < 0 || s.RootDelay < 0 || s.RootDisp < 0:
		return ballot{}, "a negative delay or dispersion"
	case s.Offset > maxOffset || s.Offset < -maxOffset:
		return ballot{}, "an offset of more than 146 years"
	}
	distance := s.RootDistance() + max(c.Age, 0)/1_000_000*driftPPM
	if distance > maxDistance {
		return ballot{}, fmt.Sprintf("its root distance of %.3f s is above %s", distance.Seconds(), maxDistance)
	}
	w := max(distance, minHalfWidth)
	return ballot{low: s.Offset - w, high: s.Offset + w, sample: s}, ""
}

// lost says why a vote was not won.
func lost(votes, usable, minAgree int) string {
	switch {
	case usable == 0:
		return "no usable answer"
	case votes < minAgree:
		return fmt.Sprintf("%d of %d usable servers agree, %d are needed", votes, usable, minAgree)
	case 2*votes <= usable:
		return fmt.Sprintf("%d of %d usable servers agree, more than half are needed", votes, usable)
	}
	return ""
}
