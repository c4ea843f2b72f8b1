package servo

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	// MaxFreq is the largest frequency that is believed, s/s; the kernel takes no more.
	MaxFreq = 500e-6

	// UnknownFreq is the deviation of a frequency that nothing is known of, s/s:
	// nine in ten crystals are within twice that.
	UnknownFreq = 30e-6

	maxServers  = 16
	maxReading  = time.Hour // from where the phase is known to be: beyond it a Restart is due
	maxPause    = 1e8       // s: three years without a reading
	slewError   = 0.01      // of a slew: a kernel that sleeps notices its seconds late, 0.7 % was seen
	muchShorter = 0.75      // of the least delay that a way had
	queueLasts  = 3600      // s: about as long somebody sends or fetches much
)

// Reading is one sample of a server that a vote found to tell the truth.
type Reading struct {
	Server netip.AddrPort
	Offset time.Duration // the server's time minus the disciplined clock, at At
	Delay  time.Duration // round trip
	At     time.Duration // monotonic
}

// Estimate is what is known of the disciplined clock.
type Estimate struct {
	Offset time.Duration // by which it is behind
	Freq   float64       // s/s by which the raw clock below it is slow
	Sigma  time.Duration // standard deviation of Offset
	Skew   float64       // standard deviation of Freq
}

// Servo follows one clock.
type Servo struct {
	bank   *bank
	mean   *filter       // of the bank's; nil where that has changed since
	ways   []*way        // one a server, in the order of their biases in the filters
	origin time.Duration // what phases are relative to, so that they are small numbers
	at     float64       // s, monotonic: the time of the filters
	course course
	tilt   tilt
	since  float64 // s, monotonic: since when the ways are about as short as they are known to be
	queue  float64 // s, monotonic: since when all ways have a queue; 0: they have none
	begun  bool
}

// New makes a servo. freq is the frequency that the raw clock is thought to be
// slow by and skew its standard deviation, steered what is already done about
// it, all in s/s.
func New(freq, skew, steered float64) *Servo {
	freq = bounded(freq)
	if !(skew > 0 && skew < UnknownFreq) { // a NaN too
		skew = UnknownFreq
	}
	return &Servo{bank: newBank(freq, skew), course: course{freq: bounded(steered)}}
}

func bounded(freq float64) float64 {
	if math.IsNaN(freq) {
		return 0
	}
	return min(max(freq, -MaxFreq), MaxFreq)
}

// Observe takes the readings of a round, in the order of their times. The first
// of all sets the phase.
func (s *Servo) Observe(readings []Reading) {
	s.mean = nil
	if len(readings) == 0 {
		return
	}
	readings = slices.Clone(readings)
	for i := range readings {
		readings[i].Delay = min(max(readings[i].Delay, 0), maxReading)
	}
	if !s.begun {
		r := readings[0]
		s.Restart(r.At, r.Offset, r.Delay)
	}
	readings = s.admit(readings)
	s.shortened(readings)
	s.meet(readings)
	s.lean(readings)
	queued := s.queued(readings)
	s.bank.mix()
	even := s.even(readings)
	likely := make([]float64, len(s.bank.models))
	for _, r := range readings {
		z := r.Offset - s.origin + s.course.stepped
		if z.Abs() > maxReading || r.At.Seconds()-s.at > maxPause {
			continue
		}
		s.pass(r.At.Seconds())
		i := s.index(r.Server)
		for k, m := range s.bank.models {
			shift, sigma := m.noise(s.ways[i], r.Delay.Seconds())
			_, usual := m.noise(s.ways[i], s.ways[i].typical())
			sigma *= max(even[k]/usual, 1)
			likely[k] += m.update(firstBias+i, z.Seconds()+s.course.ahead(r.At.Seconds())-shift, sigma*sigma+queued)
		}
	}
	s.bank.weigh(likely)
	s.bound()
}

// bound keeps the states where they can be: the frequency within MaxFreq, and each
// bias within half of the round trip, for no way is more asymmetric than that.
func (s *Servo) bound() {
	for _, m := range s.bank.models {
		m.x[freq] = bounded(m.x[freq])
		for i, w := range s.ways {
			m.x[firstBias+i] = min(max(m.x[firstBias+i], -w.trip/2), w.trip/2)
		}
	}
}

// shortened forgets what a queue taught that all ways had and nobody knew of: it
// is over, and they are far shorter than was thought. The phase may be off by half
// of that, and the frequency by what such a phase makes in the time since.
func (s *Servo) shortened(readings []Reading) {
	off, at := math.Inf(1), readings[0].At.Seconds()
	for _, r := range readings {
		i := s.index(r.Server)
		if i < 0 || r.Delay.Seconds() > muchShorter*s.ways[i].least() {
			return
		}
		off = min(off, (s.ways[i].typical()-r.Delay.Seconds())/2)
	}
	rate := min(off/max(at-s.since, 1), UnknownFreq)
	for _, m := range s.bank.models {
		m.add(phase, phase, off*off)
		m.add(freq, freq, rate*rate)
	}
	s.NewWays()
	s.since = at
}

// meet takes the delays of a round in. Of a new way no less asymmetry is thought
// possible than of the one in the middle: a server that claims a tiny delay is not
// the one that all others are measured by.
func (s *Servo) meet(readings []Reading) {
	var delays []float64
	for _, r := range readings {
		delays = append(delays, r.Delay.Seconds())
	}
	middle := median(delays)
	for i, r := range readings {
		s.way(r.Server, max(middle, delays[i])).learn(delays[i], s.at)
	}
}

// lean takes in what a round tells of the direction that is loaded.
func (s *Servo) lean(readings []Reading) {
	var delays, offsets []float64
	for _, r := range readings {
		delays = append(delays, r.Delay.Seconds()-s.ways[s.index(r.Server)].least())
		offsets = append(offsets, (r.Offset-s.origin+s.course.stepped).Seconds()+s.course.ahead(r.At.Seconds()))
	}
	s.tilt.learn(delays, offsets)
}

// even is, for each model, how precise the way in the middle of a round is usually.
// No way counts as more precise: its delays are the word of one server, which tells
// what it likes of how long it held a packet.
func (s *Servo) even(readings []Reading) []float64 {
	out := make([]float64, len(s.bank.models))
	for k, m := range s.bank.models {
		var usual []float64
		for _, r := range readings {
			w := s.ways[s.index(r.Server)]
			_, sigma := m.noise(w, w.typical())
			usual = append(usual, sigma)
		}
		out[k] = median(usual)
	}
	return out
}

// median is the one in the middle; of two there, the larger.
func median(x []float64) float64 { return slices.Sorted(slices.Values(x))[len(x)/2] }

// queued is the variance that a queue which every reading of a round met adds to
// each: on the line that the ways share, it errs all of them alike, and so do the
// rounds that come while it lasts. Averaging takes nothing of it away. What lasts
// too long for a queue are other ways.
func (s *Servo) queued(readings []Reading) float64 {
	common, at := math.Inf(1), readings[0].At.Seconds()
	for _, r := range readings {
		w := s.ways[s.index(r.Server)]
		common = min(common, r.Delay.Seconds()-2*w.typical()+w.least())
	}
	switch {
	case common <= 0:
		s.queue = 0
		return 0
	case s.queue == 0:
		s.queue = at
	case at-s.queue > 2*queueLasts:
		s.queue = 0
		s.NewWays()
		s.meet(readings)
		return 0
	}
	every := max(at-s.at, 1)
	return common * common / 12 * float64(len(readings)) * max(queueLasts/every, 1)
}

// pass lets the filters' time go on; it never runs back.
func (s *Servo) pass(at float64) {
	s.mean = nil
	if at <= s.at {
		return
	}
	at = min(at, s.at+maxPause)
	for _, m := range s.bank.models {
		m.predict(at - s.at)
	}
	s.at = at
}

func (s *Servo) index(server netip.AddrPort) int {
	for i, w := range s.ways {
		if w.server == server {
			return i
		}
	}
	return -1
}

// admit makes room for the servers of a round: those that are not in it go, whoever
// was not heard of for longest first. Of more than there can be room for, those that
// are known stay, and the readings of the others are left out.
func (s *Servo) admit(readings []Reading) []Reading {
	var in []netip.AddrPort
	fresh := 0
	for _, known := range []bool{true, false} {
		for _, r := range readings {
			if (s.index(r.Server) >= 0) == known && len(in) < maxServers && !slices.Contains(in, r.Server) {
				in = append(in, r.Server)
				if !known {
					fresh++
				}
			}
		}
	}
	for len(s.ways)+fresh > maxServers {
		oldest := -1
		for i, w := range s.ways {
			if !slices.Contains(in, w.server) && (oldest < 0 || w.heard < s.ways[oldest].heard) {
				oldest = i
			}
		}
		s.forget(oldest)
	}
	return slices.DeleteFunc(readings, func(r Reading) bool { return !slices.Contains(in, r.Server) })
}

// way is the way to a server; a new one is of such a delay.
func (s *Servo) way(server netip.AddrPort, delay float64) *way {
	s.mean = nil
	if i := s.index(server); i >= 0 {
		return s.ways[i]
	}
	w := &way{tilt: &s.tilt, server: server, trip: delay}
	s.ways = append(s.ways, w)
	for _, m := range s.bank.models {
		m.grow(w.asymmetry())
	}
	return w
}

func (s *Servo) forget(i int) {
	s.mean = nil
	s.ways = append(s.ways[:i:i], s.ways[i+1:]...)
	for _, m := range s.bank.models {
		m.shrink(firstBias + i)
	}
}

// Estimate is what is known at a time not before the last reading.
func (s *Servo) Estimate(at time.Duration) Estimate {
	if s.mean == nil {
		s.mean = s.bank.blend(s.bank.weight)
	}
	now := s.mean.clone()
	t := max(at.Seconds(), s.at)
	now.predict(min(t-s.at, maxPause))
	return Estimate{
		Offset: s.origin - s.course.stepped + seconds(now.x[phase]-s.course.ahead(t)),
		Freq:   bounded(now.x[freq]),
		Sigma:  seconds(math.Sqrt(max(now.cov(phase, phase), 0))),
		Skew:   math.Sqrt(max(now.cov(freq, freq), 0)),
	}
}

// Noise is the standard deviation of what a round tells of the phase, if it is
// like the last ones.
func (s *Servo) Noise() time.Duration {
	sum := 0.0
	for _, w := range s.ways {
		sigma := 0.0
		for k, m := range s.bank.models {
			_, by := m.noise(w, w.typical())
			sigma += s.bank.weight[k] * by
		}
		sum += 1 / (sigma * sigma)
	}
	if sum == 0 {
		return 0
	}
	return seconds(1 / math.Sqrt(sum))
}

// Restart sets the phase: by so much the disciplined clock is behind at a time,
// give or take sigma. The frequency stays.
func (s *Servo) Restart(at, offset, sigma time.Duration) {
	s.mean = nil
	s.pass(at.Seconds())
	s.at, s.begun = max(s.at, at.Seconds()), true
	s.since = s.at
	sigma = min(max(sigma, time.Millisecond), maxReading)
	ahead := s.course.ahead(s.at)
	s.origin = offset + s.course.stepped
	for _, m := range s.bank.models {
		m.restart(ahead, sigma.Seconds())
	}
}

// Doubt keeps the frequency as a guess alone, as if nothing was known of the crystal,
// and forgets by how much the servers differ, which was learnt by it.
func (s *Servo) Doubt() {
	s.mean = nil
	for _, m := range s.bank.models {
		m.alone(freq, UnknownFreq)
		for i, w := range s.ways {
			m.x[firstBias+i] = 0
			m.alone(firstBias+i, w.asymmetry())
		}
	}
}

// NewWays forgets what was learnt of the ways to the servers: the network is another one.
func (s *Servo) NewWays() {
	for len(s.ways) > 0 {
		s.forget(len(s.ways) - 1)
	}
	s.tilt = tilt{}
}

// Step tells that the disciplined clock was set forward, which ends a slew.
func (s *Servo) Step(by time.Duration) {
	s.course.stepped += by
	s.course.cut = s.course.cut || by != 0
}

// Coming is what a slew that is under way still does until the next second,
// whatever is asked for now.
func (s *Servo) Coming(at, next time.Duration) time.Duration {
	return seconds(s.course.coming(at.Seconds(), next.Seconds()))
}

// Leap tells that true time and the disciplined clock were set forward together:
// nothing is behind that was not before.
func (s *Servo) Leap(by time.Duration) {
	s.origin += by
	s.course.stepped += by
}

// Steer tells that from a time on the disciplined clock is slewed forward by a
// phase, in place of what was left of the one before, and made faster by freq.
func (s *Servo) Steer(at time.Duration, slew Slew, freq float64) {
	s.mean = nil
	slew.Phase = min(max(slew.Phase, -maxReading.Seconds()), maxReading.Seconds())
	slew.First, slew.Constant = max(slew.First, at), min(max(slew.Constant, 0), 10)
	for _, m := range s.bank.models {
		m.add(phase, phase, math.Pow(slewError*slew.Phase, 2))
	}
	s.course.steer(at.Seconds(), slew, bounded(freq))
}

// Ahead is how far the disciplined clock is ahead of the raw one, apart from
// what a frequency that New was told of did: the virtual clock of those who only
// observe.
func (s *Servo) Ahead(at time.Duration) time.Duration {
	return s.course.stepped + seconds(s.course.ahead(at.Seconds()))
}

func seconds(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }
