package selection

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// cluster sets those truechimers apart, the farthest first, that are outside of
// where the others are close together (RFC 5905, section 11.2.2), and returns the
// survivors, of which there are as many as must be kept. Without a history of each
// server here, what the others vary by is the spread of their offsets, and no less
// than the error of the best measurement among them.
func cluster(res *Result, chimers []ballot, keep int) []ballot {
	survivors := slices.Clone(chimers)
	for len(survivors) > keep {
		worst, far := farthest(survivors)
		others := slices.Delete(slices.Clone(survivors), worst, worst+1)
		may := farApart*spread(others) + measured(others)
		if far <= may {
			break
		}
		res.Verdicts[survivors[worst].index] = Verdict{Apart, fmt.Sprintf("%.6f s from the others, which are within %.6f s: not combined",
			far.Seconds(), may.Seconds())}
		survivors = others
	}
	return survivors
}

// farthest is the ballot that is farthest from what the others combine to.
func farthest(ballots []ballot) (at int, far time.Duration) {
	for i, b := range ballots {
		others := slices.Delete(slices.Clone(ballots), i, i+1)
		if d := (b.sample.Offset - weigh(others, others[0].low)).Abs(); d > far {
			at, far = i, d
		}
	}
	return at, far
}

// spread is the standard deviation of the offsets.
func spread(ballots []ballot) time.Duration {
	mean, sum := weigh(ballots, ballots[0].low), 0.0
	for _, b := range ballots {
		d := (b.sample.Offset - mean).Seconds()
		sum += d * d
	}
	return time.Duration(math.Sqrt(sum/float64(len(ballots))) * float64(time.Second))
}

// measured is the error of the best of the measurements themselves, apart from
// what the servers say of their own clocks.
func measured(ballots []ballot) time.Duration {
	least := maxDistance
	for _, b := range ballots {
		least = min(least, b.sample.Delay/2+b.sample.Dispersion)
	}
	return max(least, minHalfWidth)
}
