package clockbench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// from are the errors that come not before a time.
func from(points []Point, since time.Duration) (out []float64) {
	for _, p := range points {
		if p.Since >= since {
			out = append(out, p.Error)
		}
	}
	return out
}

// rms is 0 of nothing.
func rms(errors []float64) float64 {
	sum := 0.0
	for _, e := range errors {
		sum += e * e
	}
	return math.Sqrt(sum / float64(max(len(errors), 1)))
}

// quantile is that of the absolute values; 0 of nothing.
func quantile(errors []float64, q float64) float64 {
	if len(errors) == 0 {
		return 0
	}
	abs := make([]float64, len(errors))
	for i, e := range errors {
		abs[i] = math.Abs(e)
	}
	slices.Sort(abs)
	return abs[int(math.Ceil(q*float64(len(abs))))-1]
}

// Ratio is how many times as large one program's error is as another's.
type Ratio struct {
	Mean, Low, High float64 // geometric mean, and its 95 % interval
}

func (r Ratio) String() string { return fmt.Sprintf("%.3g (%.3g to %.3g)", r.Mean, r.Low, r.High) }

// student are the 97.5 % quantiles of Student's distribution, from one degree of
// freedom on.
var student = []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
	2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042}

// ratioOf is that of paired figures. Of one pair alone nothing is known but it.
func ratioOf(ours, theirs []float64) Ratio {
	var logs []float64
	mean := 0.0
	for i := range ours {
		logs = append(logs, math.Log(ours[i]/theirs[i]))
		mean += logs[i] / float64(len(ours))
	}
	n := len(logs)
	if n < 2 {
		return Ratio{math.Exp(mean), 0, math.Inf(1)}
	}
	sum := 0.0
	for _, l := range logs {
		sum += (l - mean) * (l - mean)
	}
	half := student[min(n-1, len(student))-1] * math.Sqrt(sum/float64(n-1)/float64(n))
	return Ratio{math.Exp(mean), math.Exp(mean - half), math.Exp(mean + half)}
}
