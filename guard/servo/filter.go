package servo

import (
	"math"
	"slices"
)

// The state of a filter: the phase (s), the frequency (s/s), and then one bias a
// server (s).
const (
	phase = iota
	freq
	firstBias
)

const (
	biasShare  = 0.02  // of the first delay: the deviation of a way's asymmetry
	biasWander = 1e-14 // s²/s: it may change by some 30 µs in a day
)

// filter is a Kalman filter of the raw clock: what it lacks, how fast it loses,
// and by how much each server differs from the truth.
type filter struct {
	x []float64 // state
	p []float64 // covariance, row by row
	q float64   // by which the variance of the frequency grows, 1/s
}

func newFilter(q, freq, skew float64) *filter {
	return &filter{x: []float64{0, freq}, p: []float64{1, 0, 0, skew * skew}, q: q}
}

func (f *filter) cov(i, j int) float64     { return f.p[i*len(f.x)+j] }
func (f *filter) add(i, j int, by float64) { f.p[i*len(f.x)+j] += by }

// predict lets dt seconds pass: the frequency wanders, and so do, far slower,
// the biases.
func (f *filter) predict(dt float64) {
	n := len(f.x)
	f.x[phase] += f.x[freq] * dt
	for j := range n { // P = A P A', where A adds dt times the frequency to the phase
		f.add(phase, j, dt*f.cov(freq, j))
	}
	for i := range n {
		f.add(i, phase, dt*f.cov(i, freq))
	}
	f.add(phase, phase, f.q*dt*dt*dt/3)
	f.add(phase, freq, f.q*dt*dt/2)
	f.add(freq, phase, f.q*dt*dt/2)
	f.add(freq, freq, f.q*dt)
	for i := firstBias; i < n; i++ {
		f.add(i, i, biasWander*dt)
	}
}

// update takes one measurement of phase and bias in, with its variance, and
// returns the logarithm of its likelihood.
func (f *filter) update(bias int, z, r float64) float64 {
	n := len(f.x)
	gain := make([]float64, n) // P H', before it is divided by s
	for i := range n {
		gain[i] = f.cov(i, phase) + f.cov(i, bias)
	}
	s := gain[phase] + gain[bias] + r
	v := z - f.x[phase] - f.x[bias]
	for i := range n {
		f.x[i] += gain[i] / s * v
		for j := range n {
			f.add(i, j, -gain[i]*gain[j]/s)
		}
	}
	for i := range n { // rounding must not make a variance negative
		f.p[i*n+i] = max(f.p[i*n+i], least)
	}
	return -(math.Log(s) + v*v/s) / 2
}

// least is a variance that is as good as none.
const least = 1e-30

// restart sets the phase, and that nothing else is known to go with it.
func (f *filter) restart(to, sigma float64) {
	f.x[phase] = to
	f.alone(phase, sigma)
}

// alone gives a state another deviation, and that nothing else is known to go with it.
func (f *filter) alone(state int, sigma float64) {
	n := len(f.x)
	for i := range n {
		f.p[i*n+state], f.p[state*n+i] = 0, 0
	}
	f.p[state*n+state] = sigma * sigma
}

// grow adds a server whose bias is not known but for its deviation.
func (f *filter) grow(sigma float64) {
	n := len(f.x)
	p := make([]float64, (n+1)*(n+1))
	for i := range n {
		copy(p[i*(n+1):], f.p[i*n:(i+1)*n])
	}
	p[len(p)-1] = sigma * sigma
	f.x, f.p = append(f.x, 0), p
}

// shrink forgets a server.
func (f *filter) shrink(bias int) {
	n := len(f.x)
	p := make([]float64, 0, (n-1)*(n-1))
	for i := range n {
		for j := range n {
			if i != bias && j != bias {
				p = append(p, f.cov(i, j))
			}
		}
	}
	f.x, f.p = slices.Delete(f.x, bias, bias+1), p
}

func (f *filter) clone() *filter {
	return &filter{x: slices.Clone(f.x), p: slices.Clone(f.p), q: f.q}
}
