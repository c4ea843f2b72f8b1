package timeworld

import (
	"math"
	"math/rand/v2"
	"time"
)

// grid is how long the frequency of a crystal stays the same.
const grid = 16 * time.Second

// oscillator is a crystal. Its frequency walks at random, and follows the
// temperature, slowly.
type oscillator struct {
	rng    *rand.Rand
	wander float64       // s/s by which the frequency walks in a second
	drift  float64       // s/s: so slow is it now, the temperature apart
	heat   float64       // s/s that the temperature adds
	target float64       // s/s that it will add in the end
	tau    time.Duration // the time constant of the temperature
	until  time.Duration // the frequency holds until then
}

func newOscillator(seed uint64, drift, wander float64) *oscillator {
	return &oscillator{rng: rand.New(rand.NewPCG(seed, 0x05c111a70)), drift: drift, wander: wander, tau: time.Second, until: grid}
}

// rate is by how much a clock without any help loses in a second.
func (o *oscillator) rate() float64 { return o.drift + o.heat }

// next begins the next stretch.
func (o *oscillator) next() {
	o.drift += o.wander * math.Sqrt(grid.Seconds()) * o.rng.NormFloat64()
	o.heat += (o.target - o.heat) * (1 - math.Exp(-grid.Seconds()/o.tau.Seconds()))
	o.until += grid
}

// warm has the temperature change the frequency by so much in the end.
func (o *oscillator) warm(by float64, tau time.Duration) { o.target, o.tau = o.target+by, tau }
