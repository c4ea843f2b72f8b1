package servo

import (
	"math"
	"slices"
)

const (
	change = 0.02 // the probability that another model, next to this one, holds at the next round
	alive  = 1e-6 // below which no model's weight falls
)

// restlessness is by how much the variance of the frequency grows in a second:
// from a crystal in an oven to a laptop that is carried outside.
var restlessness = []float64{1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14}

// noises are what a delay may tell.
var noises = []noise{byExcess, bySpread, byTilt}

// bank is several filters, one an assumption, and how much each is believed.
type bank struct {
	models []model
	weight []float64
}

// model is one assumption.
type model struct {
	*filter
	noise noise
}

func newBank(freq, skew float64) *bank {
	b := &bank{}
	for _, k := range noises {
		for _, q := range restlessness {
			b.models = append(b.models, model{newFilter(q, freq, skew), k})
		}
	}
	b.weight = slices.Repeat([]float64{1 / float64(len(b.models))}, len(b.models))
	return b
}

// moves is how probable it is, beside staying, that model j holds now if i did
// at the last round.
func moves(i, j int) float64 {
	n := len(restlessness)
	noise, rest := i/n == j/n, math.Abs(float64(i%n-j%n))
	switch {
	case i == j:
		return 1
	case noise && rest == 1, !noise && rest == 0:
		return change
	}
	return 0
}

// mix begins a round: every filter starts from what all of them hold, weighed by
// how probable it is that the clock comes from there.
func (b *bank) mix() {
	n := len(b.models)
	fresh, next := make([]*filter, n), make([]float64, n)
	for j := range n {
		from := make([]float64, n)
		for i := range n {
			from[i] = moves(i, j) * b.weight[i]
			next[j] += from[i]
		}
		for i := range n {
			from[i] /= next[j]
		}
		fresh[j] = b.blend(from)
		fresh[j].q = b.models[j].q
	}
	for j := range n {
		b.models[j].filter = fresh[j]
	}
	b.weight = normal(next)
}

// spread are the states whose means' differences count as uncertainty. Those of
// the biases do not: no reading tells a bias of all servers from a phase, so
// nothing would ever take away again what each round adds to it.
var spread = []int{phase, freq}

// blend is the mean of all filters, with the spread of their means in its
// covariance.
func (b *bank) blend(weight []float64) *filter {
	out := b.models[0].clone()
	clear(out.x)
	clear(out.p)
	out.q = 0
	for i, m := range b.models {
		if weight[i] == 0 { // most are, where a round begins
			continue
		}
		for k, v := range m.x {
			out.x[k] += weight[i] * v
		}
		out.q += weight[i] * m.q
	}
	for i, m := range b.models {
		if weight[i] == 0 {
			continue
		}
		for k, v := range m.p {
			out.p[k] += weight[i] * v
		}
		for _, r := range spread {
			for _, c := range spread {
				out.add(r, c, weight[i]*(m.x[r]-out.x[r])*(m.x[c]-out.x[c]))
			}
		}
	}
	return out
}

// weigh takes the logarithms of the likelihoods of a round in.
func (b *bank) weigh(likely []float64) {
	best := slices.Max(likely)
	for i, l := range likely {
		b.weight[i] *= math.Exp(l - best)
	}
	b.weight = normal(b.weight)
}

// normal makes weights sum to one and keeps every model alive.
func normal(w []float64) []float64 {
	sum := 0.0
	for i := range w {
		if !(w[i] > alive) { // a NaN too
			w[i] = alive
		}
		sum += w[i]
	}
	for i := range w {
		w[i] /= sum
	}
	return w
}
