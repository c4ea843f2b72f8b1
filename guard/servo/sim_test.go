package servo

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// path is a way to servers.
type path struct {
	name   string
	delay  func(c *clockSim, server int) (there, back float64) // s, of one exchange
	wander float64                                             // s/s by which the clock's frequency walks in a second
	chrony float64                                             // RMS error of chronyd 4.3 in the same world, in clknetsim, ten runs
}

// queued is a way whose delay beyond the least is exponential, in both directions.
func queued(least, mean float64) func(*clockSim, int) (float64, float64) {
	return func(c *clockSim, _ int) (float64, float64) {
		return least + mean*c.r.ExpFloat64(), least + mean*c.r.ExpFloat64()
	}
}

func symmetric(c *clockSim, _ int) (float64, float64) {
	return 1e-2 + 1e-3*c.r.NormFloat64(), 1e-2 + 1e-3*c.r.NormFloat64()
}

// wireless has a long tail: now and then a packet waits for many others.
func wireless(c *clockSim, _ int) (float64, float64) {
	one := func() float64 {
		return 5e-3 + 2e-3*c.r.ExpFloat64() + 1e-3*c.r.ExpFloat64()*c.r.ExpFloat64()*c.r.ExpFloat64()
	}
	return one(), one()
}

// loaded is for 20 minutes of every hour full in one direction.
func loaded(c *clockSim, _ int) (there, back float64) {
	there, back = 1e-2+5e-4*c.r.ExpFloat64(), 1e-2+5e-4*c.r.ExpFloat64()
	if c.round%56 < 19 {
		back += 2e-2 * c.r.ExpFloat64()
	}
	return there, back
}

// manyWays: each exchange is from another address and takes others of four ways
// there and four ways back (ECMP), where chronyd has one of them to each server.
func manyWays(c *clockSim, _ int) (float64, float64) {
	one := func() float64 { return 1e-2 + 5e-4*float64(c.r.IntN(4)) + 3e-4*c.r.ExpFloat64() }
	return one(), one()
}

var paths = []path{
	{"LAN", queued(1e-4, 1e-5), 1e-9, 6.36e-6},
	{"WAN", queued(1e-2, 1e-3), 1e-9, 7.0e-5},
	{"WAN, calm clock", queued(1e-2, 1e-3), 1e-10, 5.5e-5},
	{"WAN, restless clock", queued(1e-2, 1e-3), 1e-8, 2.4e-4},
	{"WAN, symmetric jitter", symmetric, 1e-9, 1.03e-4},
	{"wireless", wireless, 1e-9, 1.5e-4},
	{"load in one direction", loaded, 1e-9, 5.05e-3},
	{"many ways", manyWays, 1e-9, 1.51e-4},
}

// loop is a way to steer: readings of the disciplined clock in, corrections out.
type loop interface {
	round(now time.Duration, readings []Reading) (slew time.Duration, freq float64)
}

// clockSim is a clock in a world: it starts 30 ms wrong and 20 ppm slow.
type clockSim struct {
	r       *rand.Rand
	path    path
	behind  float64 // s: truth minus disciplined clock
	drift   float64 // s/s of the raw clock
	freq    float64 // s/s: steered
	pending float64 // s: still to be slewed
	servers int
	round   int
}

func newClockSim(p path, seed uint64) *clockSim {
	return &clockSim{r: rand.New(rand.NewPCG(seed, 1)), path: p, behind: 0.03, drift: 20e-6, servers: 4}
}

func server(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 123)
}

// second lets one pass.
func (c *clockSim) second() {
	c.drift += c.path.wander * c.r.NormFloat64()
	slewed := c.pending / 4
	c.pending -= slewed
	c.behind += c.drift - c.freq - slewed
}

// readings are a round of all servers.
func (c *clockSim) readings(now time.Duration) []Reading {
	var out []Reading
	c.round++
	for i := range c.servers {
		there, back := c.path.delay(c, i)
		out = append(out, Reading{server(i), seconds(c.behind + (there-back)/2), max(seconds(there+back), 0), now})
	}
	return out
}

// run runs a loop for a time and returns the RMS error after warm.
func (c *clockSim) run(l loop, length, warm time.Duration) float64 {
	var sum float64
	n, next := 0, time.Duration(0)
	for now := time.Duration(0); now < length; now += time.Second {
		if now >= next {
			slew, freq := l.round(now, c.readings(now))
			c.pending, c.freq = slew.Seconds(), freq
			next = now + 64*time.Second
		}
		c.second()
		if now > warm {
			sum += c.behind * c.behind
			n++
		}
	}
	return math.Sqrt(sum / float64(n))
}

// steered is the servo as a loop.
type steered struct{ *Servo }

func newSteered() steered { return steered{New(0, UnknownFreq, 0)} }

func (s steered) round(now time.Duration, readings []Reading) (time.Duration, float64) {
	s.Observe(readings)
	e := s.Estimate(now)
	s.Steer(now, Slew{Phase: e.Offset.Seconds(), First: now}, e.Freq)
	return e.Offset, e.Freq
}

// pll is the simpler one: the mean offset of a round, slewed, and a fixed part of
// it taken for a frequency.
type pll struct {
	freq  float64
	gain  float64
	begun bool
}

func (p *pll) round(_ time.Duration, readings []Reading) (time.Duration, float64) {
	var mean time.Duration
	for _, r := range readings {
		mean += r.Offset / time.Duration(len(readings))
	}
	if p.begun {
		p.freq += p.gain * mean.Seconds() / 64
	}
	p.begun = true
	return mean, p.freq
}

// rms is the error of a loop over ten seeds.
func rms(p path, make func() loop, length time.Duration) float64 {
	var sum float64
	const seeds = 10
	for seed := range uint64(seeds) {
		e := newClockSim(p, seed).run(make(), length, 2000*time.Second)
		sum += e * e
	}
	return math.Sqrt(sum / seeds)
}

// TestBeatsFixedLoop: in every world the servo is better than a loop whatever
// its gain, and than chronyd was in the same world.
func TestBeatsFixedLoop(t *testing.T) {
	for _, p := range paths {
		ours := rms(p, func() loop { return newSteered() }, 20000*time.Second)
		best := math.Inf(1)
		for _, gain := range []float64{0.01, 0.03, 0.1, 0.3} {
			best = min(best, rms(p, func() loop { return &pll{gain: gain} }, 20000*time.Second))
		}
		t.Logf("%-22s %.3g s RMS: %.2f of the best fixed loop's, %.2f of chronyd's", p.name, ours, ours/best, ours/p.chrony)
		if ours > 0.6*best || ours > p.chrony {
			t.Errorf("%s: %.3g s, a fixed loop %.3g s, chronyd %.3g s", p.name, ours, best, p.chrony)
		}
	}
}
