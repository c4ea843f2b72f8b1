package timeworld

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Discipline is a way to steer a clock: the readings of a round in, corrections out.
// Offsets are in s, frequencies in s/s.
type Discipline interface {
	// Round takes what was measured in. raw is what the raw clock, without any
	// correction, lacked by each reading; ahead is what the corrections made of it.
	Round(now float64, raw []Reading, ahead float64) Correct
}

// Reading is one sample of a server.
type Reading struct {
	Server   int
	At       float64 // s
	Raw      float64 // s that the raw clock lacks
	Delay    float64 // s
	Distance float64 // s: the root distance
}

// Correct is what is done to a clock: an offset that is slewed at an even rate
// in a time, or at once where that is 0, and a frequency.
type Correct struct {
	Offset, Over float64
	Freq         float64
}

// Like is a discipline in the manner of chronyd, made from what its manual and
// its papers say of it: for each source a weighted linear regression over as many
// samples as the runs test lets stand, up to 64; sources combined, offsets by
// their distance and frequencies by their variance; offsets slewed in a time that
// corrtimeratio (3) sets, by at most maxslewrate (83333 ppm); a step above 1 s in
// the first three updates; no frequency taken whose skew is above maxupdateskew
// (1000 ppm). How close it comes to chronyd itself is in TestReferenceIsLikeChrony.
type Like struct {
	sources  map[int][]point
	least    map[int]float64 // delay
	updates  int
	last     float64
	freq     float64
	distance map[int]float64
}

const (
	mostSamples   = 64
	corrTimeRatio = 3
	maxSlewRate   = 83333e-6
	maxSkew       = 1000e-6
)

// NewLike makes one that knows nothing.
func NewLike() *Like {
	return &Like{sources: map[int][]point{}, least: map[int]float64{}, distance: map[int]float64{}}
}

// Round is that of Discipline.
func (l *Like) Round(now float64, raw []Reading, ahead float64) Correct {
	for _, r := range raw {
		l.take(r)
	}
	offset, sd, freq, skew, ok := l.combine(now, raw)
	if !ok {
		return Correct{Freq: l.freq}
	}
	if skew < maxSkew {
		l.freq = freq
	}
	interval := now - l.last
	l.last = now
	l.updates++
	c := Correct{Offset: offset - ahead, Freq: l.freq}
	if math.Abs(c.Offset) > 1 && l.updates <= 3 {
		return c
	}
	c.Over = max(corrTimeRatio*0.5*sd*interval/math.Abs(c.Offset), math.Abs(c.Offset)/maxSlewRate, 1)
	return c
}

// take keeps a sample. Its spread is what its delay exceeds the least by, over
// what the samples scatter by.
func (l *Like) take(r Reading) {
	if d, ok := l.least[r.Server]; !ok || r.Delay < d {
		l.least[r.Server] = r.Delay
	}
	l.distance[r.Server] = r.Distance
	points := append(l.sources[r.Server], point{at: r.At, y: r.Raw, spread: r.Delay})
	l.sources[r.Server] = points[max(0, len(points)-mostSamples):]
}

// fit fits a source: twice, for the weights need to know how much samples scatter.
func (l *Like) fit(server int) fit {
	var points []point
	for _, p := range l.sources[server] {
		points = append(points, point{p.at, p.y, 1})
	}
	even := runsFit(points)
	scatter := max(even.sd, 1e-6)
	for i, p := range l.sources[server] {
		points[i].spread = 1 + (p.spread-l.least[server])/2/scatter
	}
	return runsFit(points)
}

func (l *Like) combine(now float64, raw []Reading) (offset, sd, freq, skew float64, ok bool) {
	var so, wo, sf, wf, ss float64
	for _, r := range raw {
		f := l.fit(r.Server)
		if f.used < 3 || !(f.sd > 0) {
			continue
		}
		w := 1 / l.distance[r.Server]
		so, wo = so+w*(f.offset+f.freq*(now-r.At)), wo+w
		ss += w * f.offsetSD
		v := f.freqSD * sureBy(f.used-2)
		sf, wf = sf+f.freq/(v*v), wf+1/(v*v)
	}
	if wo == 0 {
		return 0, 0, 0, 0, false
	}
	return so / wo, ss / wo, sf / wf, 1 / math.Sqrt(wf), true
}

// Loop is a plain phase-locked loop: the mean of a round is slewed before the
// next one, and Gain of it over the time since the last one is frequency.
type Loop struct {
	Gain float64
	freq float64
	last float64
}

// Round is that of Discipline.
func (l *Loop) Round(now float64, raw []Reading, ahead float64) Correct {
	var mean float64
	for _, r := range raw {
		mean += (r.Raw - ahead) / float64(len(raw))
	}
	if l.last > 0 {
		l.freq += l.Gain * mean / (now - l.last)
	}
	l.last = now
	return Correct{Offset: mean, Over: 16, Freq: l.freq}
}

// plain is a clock that is corrected by a Discipline.
type plain struct {
	osc   *oscillator
	at    time.Duration
	raw   float64 // s that the raw clock lacks
	ahead float64 // s: what the corrections made of it
	freq  float64
	rate  float64 // s/s: the slew
	ends  time.Duration
}

func (p *plain) off() float64 { return p.raw - p.ahead }

func (p *plain) advance(to time.Duration) {
	for p.at < to {
		if p.at >= p.osc.until {
			p.osc.next()
		}
		next := min(to, p.osc.until)
		if p.at >= p.ends {
			p.rate = 0
		} else {
			next = min(next, p.ends)
		}
		dt := (next - p.at).Seconds()
		p.raw += p.osc.rate() * dt
		p.ahead += (p.freq + p.rate) * dt
		p.at = next
	}
}

func (p *plain) correct(c Correct) {
	p.freq, p.rate, p.ends = c.Freq, 0, p.at
	if c.Over == 0 {
		p.ahead += c.Offset
		return
	}
	p.rate, p.ends = c.Offset/c.Over, p.at+duration(c.Over)
}

// Replay has a discipline steer the same crystal, from samples that took the same
// ways at the same times as those of a world did, and returns what became of it.
func Replay(s Setting, done []exchange, d Discipline, length time.Duration) []Look {
	servers := makeServers(s.Seed, s.Profile, cmp.Or(s.Servers, 4))
	p := &plain{osc: newOscillator(s.Seed, s.Drift*1e-6, s.Profile.Wander), raw: s.Offset}
	var t Trace
	pass := func(to time.Duration) {
		for p.at < to {
			p.advance(min(to, t.due))
			if p.at >= t.due {
				t.look(p.at, p.off())
			}
		}
	}
	for _, round := range rounds(done) {
		var readings []Reading
		for _, x := range round {
			pass(x.arrives())
			srv := servers[x.server]
			x.behind = p.off() // it did not change to speak of during an exchange
			sample := srv.sample(x, p.off())
			readings = append(readings, Reading{Server: x.server, At: p.at.Seconds(), Delay: sample.Delay.Seconds(),
				Raw: srv.offset(x, p.off()) + p.ahead, Distance: sample.RootDistance().Seconds()})
		}
		p.correct(d.Round(p.at.Seconds(), readings, p.ahead))
	}
	pass(length)
	return t.Looks
}

// rounds are the exchanges by the syncs that they belonged to, in the order in
// which they were answered.
func rounds(done []exchange) [][]exchange {
	done = slices.Clone(done)
	slices.SortFunc(done, func(a, b exchange) int { return cmp.Compare(a.arrives(), b.arrives()) })
	var out [][]exchange
	for i, x := range done {
		if i == 0 || x.sent > done[i-1].sent+1500*time.Millisecond {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], x)
	}
	return out
}

// Burst is how chronyd asks by itself: four exchanges 2 s apart (iburst), and then
// one every 64 s.
func Burst(s Setting, length time.Duration) []exchange {
	var out []exchange
	servers := makeServers(s.Seed, s.Profile, cmp.Or(s.Servers, 4))
	number := uint64(0)
	for at := 100 * time.Millisecond; at < length; {
		number++
		for i, srv := range servers {
			x := srv.meet(s.Seed, exchange{server: i, number: number, src: netip.AddrPortFrom(stable, uint16(40000+number)), sent: at})
			if !x.lost {
				out = append(out, x)
			}
		}
		if at += 2 * time.Second; number >= 4 {
			at += 62 * time.Second
		}
	}
	return out
}
