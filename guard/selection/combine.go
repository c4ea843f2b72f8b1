package selection

import (
	"slices"
	"time"
)

// combine fills in the outcome of a vote that was won: the offset is that of the
// survivors, the error is as large as all truechimers leave it.
func combine(res *Result, chimers, survivors []ballot, usable int, low, high time.Duration) {
	offset := weigh(survivors, low)
	res.Offset = min(max(offset, low), high)
	res.Error = reach(chimers, usable, res.Offset)
	leaps, best := [3]int{}, uint8(15)
	for _, b := range chimers {
		leaps[b.sample.Leap]++
		best = min(best, b.sample.Stratum)
	}
	res.Stratum = best + 1
	for leap, n := range leaps {
		if 2*n > len(chimers) {
			res.Leap = uint8(leap)
		}
	}
}

// weigh is the mean of the offsets, each weighted by the inverse of its root
// distance. A server that claims a tiny one is weighed by the least that counts.
func weigh(selected []ballot, from time.Duration) time.Duration {
	var sum, weights float64
	for _, b := range selected { // relative to a near point: a float64 holds 104 days to the nanosecond
		weight := 1 / b.width().Seconds()
		sum += float64(b.sample.Offset-from) * weight
		weights += weight
	}
	return from + time.Duration(sum/weights)
}

// reach is how far the truth can be from an offset, if most of the usable tell it:
// the offset's distance from the far end of an interval, the least distance that
// the others, were they all nearer, could not have made up among themselves.
func reach(selected []ballot, usable int, offset time.Duration) time.Duration {
	var far []time.Duration
	for _, b := range selected {
		far = append(far, max(b.high-offset, offset-b.low))
	}
	slices.Sort(far)
	return far[(usable-1)/2] // so many may lie, and more than that are selected
}
