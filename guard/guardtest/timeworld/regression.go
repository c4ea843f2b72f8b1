package timeworld

import (
	"math"
)

// fit is a weighted straight line through samples, as they stand at the last one.
type fit struct {
	offset, freq     float64 // at the last sample; per second
	offsetSD, freqSD float64
	sd               float64 // of a sample that weighs 1
	used             int     // samples, the last ones
}

// point is a sample: what the raw clock lacked at a time, and how little it is
// trusted: 1 is the best.
type point struct {
	at, y  float64
	spread float64
}

// runsFit fits as many of the last samples as a straight line holds for: the
// oldest are left out until the residuals change their sign often enough to be
// chance (the runs test), or few are left.
func runsFit(points []point) fit {
	for n := len(points); ; n-- {
		f, residuals := straight(points[len(points)-n:])
		if n <= fewest || runs(residuals) > fewRuns(n) {
			return f
		}
	}
}

const fewest = 4

// straight is weighted least squares.
func straight(points []point) (fit, []float64) {
	last := points[len(points)-1].at
	var sw, swx, swy, swxx, swxy float64
	for _, p := range points {
		w, x := 1/(p.spread*p.spread), p.at-last
		sw, swx, swy = sw+w, swx+w*x, swy+w*p.y
		swxx, swxy = swxx+w*x*x, swxy+w*x*p.y
	}
	det := sw*swxx - swx*swx
	f := fit{used: len(points), offset: swy / sw, offsetSD: math.Inf(1), freqSD: math.Inf(1)}
	if len(points) < 3 || det <= 0 {
		return f, make([]float64, len(points))
	}
	f.offset, f.freq = (swxx*swy-swx*swxy)/det, (sw*swxy-swx*swy)/det
	residuals, sum := make([]float64, len(points)), 0.
	for i, p := range points {
		residuals[i] = p.y - f.offset - f.freq*(p.at-last)
		sum += residuals[i] * residuals[i] / (p.spread * p.spread)
	}
	f.sd = math.Sqrt(sum / float64(len(points)-2))
	f.offsetSD, f.freqSD = f.sd*math.Sqrt(swxx/det), f.sd*math.Sqrt(sw/det)
	return f, residuals
}

// runs counts the stretches of one sign.
func runs(residuals []float64) int {
	n := 0
	for i, r := range residuals {
		if i == 0 || (r < 0) != (residuals[i-1] < 0) {
			n++
		}
	}
	return n
}

// fewRuns is how many runs are too few to be chance, at one in twenty: there are
// (n+1)/2 of them in the mean, with a variance of (n-1)/4 (Wald and Wolfowitz 1940).
func fewRuns(n int) int {
	return int(math.Floor(float64(n+1)/2 - 1.645*math.Sqrt(float64(n-1))/2))
}

// sureBy is Student's t at 0.9995 by the degrees of freedom: chrony's skew is a
// bound, not a deviation.
func sureBy(degrees int) float64 {
	table := []float64{636.6, 31.6, 12.92, 8.61, 6.869, 5.959, 5.408, 5.041, 4.781, 4.587, 4.437, 4.318, 4.221, 4.14, 4.073, 4.015, 3.965, 3.922, 3.883, 3.85}
	return table[min(max(degrees, 1), len(table))-1]
}
