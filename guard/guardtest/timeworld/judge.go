package timeworld

import (
	"fmt"
	"math"
	"time"
)

// Oscillates says how a clock swings, empty where it does not. It looks at no
// amplitude, so that nothing has to be known of the noise:
//
//   - The error, half a period later, is the opposite, and a whole period later the
//     same, both by a correlation of more than swing, and that for ten periods or
//     more. A clock that wanders does the first by chance, and the second if there
//     are but few.
//   - Corrections alternate: each is the opposite of the one before, by a correlation
//     beyond alternate. Noise that is corrected and comes back makes -0.5 at most.
func Oscillates(looks []Look, fixes []Correction) string {
	var off []float64
	for i, l := range looks {
		if i%4 == 0 {
			off = append(off, l.Off)
		}
	}
	off = centred(off)
	for lag := 2; lag < len(off)/20; lag++ {
		half, whole := correlation(off, lag), correlation(off, 2*lag)
		if half < -swing && whole > swing {
			return fmt.Sprintf("the error swings with a period of %s: correlations %.2f and %.2f", 2*time.Duration(lag)*4*rarely, half, whole)
		}
	}
	var moves []float64
	for _, f := range fixes {
		moves = append(moves, f.Slew.Seconds()+f.Step.Seconds())
	}
	if c := correlation(moves, 1); len(moves) >= fewMoves && c < alternate {
		return fmt.Sprintf("corrections alternate: correlation %.2f of %d", c, len(moves))
	}
	return ""
}

const (
	swing     = 0.5
	alternate = -0.75
	fewMoves  = 20
)

// correlation is that of a series with itself, so much later.
func correlation(x []float64, lag int) float64 {
	var sum, before, after float64
	for i := lag; i < len(x); i++ {
		sum += x[i] * x[i-lag]
		before, after = before+x[i-lag]*x[i-lag], after+x[i]*x[i]
	}
	if before == 0 || after == 0 {
		return 0
	}
	return sum / math.Sqrt(before*after)
}

func centred(x []float64) []float64 {
	mean := 0.
	for _, v := range x {
		mean += v / float64(len(x))
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v - mean
	}
	return out
}

// Grows says that the error becomes larger from part to part, empty where it does
// not: of the thirds of a time each is more than twice as bad as the one before, and
// the last one is worse than a limit.
func Grows(looks []Look, limit float64) string {
	n := len(looks) / 3
	a, _ := RMS(looks[:n])
	b, _ := RMS(looks[n : 2*n])
	c, _ := RMS(looks[2*n:])
	if b > 2*a && c > 2*b && c > limit {
		return fmt.Sprintf("the error grows: %s, %s, %s RMS", near(a), near(b), near(c))
	}
	return ""
}
