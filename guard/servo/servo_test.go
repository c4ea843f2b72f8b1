package servo

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"
	"time"
)

// sane fails the test unless an estimate can be acted on.
func sane(t *testing.T, e Estimate) {
	t.Helper()
	if !(math.Abs(e.Freq) <= MaxFreq) || !(e.Skew >= 0) || math.IsInf(e.Skew, 0) || e.Sigma < 0 {
		t.Fatalf("%+v", e)
	}
}

// TestFollowsWhateverTheCrystalDoes: ramps, jumps and calm, polled rarely, on a
// way without jitter. Nothing runs away, and the phase stays near the readings.
func TestFollowsWhateverTheCrystalDoes(t *testing.T) {
	for seed := range uint64(100) {
		c := newClockSim(path{delay: queued(5e-3, 0)}, seed)
		loop, now := newSteered(), time.Duration(0)
		ramp := 0.0
		for i := range 300 {
			if i%20 == 0 {
				ramp = []float64{0, 0, 1e-6, -1e-6, 1e-7}[c.r.IntN(5)]
			}
			c.drift = min(max(c.drift+ramp, -2e-4), 2e-4)
			slew, freq := loop.round(now, c.readings(now))
			if e := loop.Estimate(now); i > 10 && math.Abs(e.Offset.Seconds()-c.behind) > 1e-3 {
				t.Fatalf("seed %d, round %d: the clock is behind by %.6f s, the estimate is %+v", seed, i, c.behind, e)
			}
			sane(t, loop.Estimate(now))
			c.pending, c.freq = slew.Seconds(), freq
			for range 64 << c.r.IntN(5) {
				c.second()
				now += time.Second
			}
		}
	}
}

// TestRestartKeepsTheFrequency, whatever happened to the phase.
func TestRestartKeepsTheFrequency(t *testing.T) {
	c := newClockSim(paths[1], 1)
	loop := newSteered()
	c.run(loop, 4*time.Hour, 0)
	now := 4 * time.Hour
	was := loop.Estimate(now)
	loop.Restart(now, -time.Hour, time.Second)
	if e := loop.Estimate(now); e.Offset != -time.Hour || e.Freq != was.Freq || e.Sigma < time.Second {
		t.Errorf("%+v, before %+v", e, was)
	}
	loop.NewWays()
	if e := loop.Estimate(now); e.Offset != -time.Hour || e.Freq != was.Freq || loop.Noise() != 0 {
		t.Errorf("%+v, before %+v", e, was)
	}
}

// TestQueueThatAllMeet: a queue of 80 ms rises for an hour on the line that all ways
// share. A clock that lost its way by the half of it would be off by 40 ms.
func TestQueueThatAllMeet(t *testing.T) {
	uplink := func(c *clockSim, _ int) (there, back float64) {
		there, back = queued(1e-2, 1e-3)(c, 0)
		return there + 80e-3*float64(max(c.round%180-120, 0))/60, back
	}
	for seed := range uint64(20) {
		c := newClockSim(path{delay: uplink, wander: 1e-9}, seed)
		if rms := c.run(newSteered(), 12*time.Hour, time.Hour); rms > 1.5e-3 {
			t.Errorf("seed %d: %.6f s RMS", seed, rms)
		}
	}
}

// TestLongerWays: delays that stay longer are no queue, and are learnt from again,
// even where few readings are taken.
func TestLongerWays(t *testing.T) {
	c := newClockSim(path{delay: queued(1e-2, 1e-3), wander: 1e-9}, 1)
	loop, now := newSteered(), 6*time.Hour
	c.run(loop, now, 0)
	c.path.delay = queued(6e-2, 1e-3)
	for range 12 {
		slew, freq := loop.round(now, c.readings(now))
		c.pending, c.freq = slew.Seconds(), freq
		for range 1024 {
			c.second()
			now += time.Second
		}
	}
	if len(loop.ways[0].delays) > 10 {
		t.Errorf("%d delays are kept: most of them of the ways before", len(loop.ways[0].delays))
	}
	if e := loop.Estimate(now); e.Sigma > 3*time.Millisecond || math.Abs(c.behind) > 1e-3 {
		t.Errorf("the clock is behind by %.6f s, the estimate is %+v", c.behind, e)
	}
}

// TestTinyDelay: a server may claim any delay. One that claims none moves the clock
// no more than its part of the servers.
func TestTinyDelay(t *testing.T) {
	for seed := range uint64(20) {
		c := newClockSim(path{delay: queued(1e-2, 1e-3), wander: 1e-9}, seed)
		loop, now, sum := newSteered(), time.Duration(0), 0.
		const rounds = 500
		for range rounds {
			readings := c.readings(now)
			readings[2].Delay = time.Microsecond
			readings[2].Offset += 2 * time.Millisecond
			slew, freq := loop.round(now, readings)
			c.pending, c.freq = slew.Seconds(), freq
			for range 64 {
				c.second()
				now += time.Second
			}
			sum += c.behind * c.behind
			if math.Abs(freq) > 200e-6 {
				t.Fatalf("seed %d, after %s: %.1f ppm", seed, now, freq*1e6)
			}
		}
		if rms := math.Sqrt(sum / rounds); rms > 1e-3 {
			t.Errorf("seed %d: %.6f s RMS", seed, rms)
		}
	}
}

// TestNothingImpossibleIsLearnt: servers that lie by a walk, and whose lies are now
// and then taken for the phase, leave no asymmetry and no frequency behind that
// cannot be; once they are honest all is well within a few rounds.
func TestNothingImpossibleIsLearnt(t *testing.T) {
	for seed := range uint64(20) {
		c := newClockSim(path{delay: queued(1e-2, 5e-3), wander: 1e-9}, seed)
		loop, now, lie := newSteered(), time.Duration(0), 0.
		for i := range 300 {
			readings := c.readings(now)
			if lie += 30e-3 * c.r.NormFloat64(); i < 280 {
				readings[0].Offset += seconds(lie)
				readings[1].Offset += seconds(lie)
			}
			if i < 280 && i%3 == 0 {
				loop.Restart(now, readings[0].Offset, 30*time.Millisecond)
			}
			slew, freq := loop.round(now, readings)
			c.pending, c.freq = slew.Seconds(), freq
			for range 64 {
				c.second()
				now += time.Second
			}
			for _, m := range loop.bank.models {
				for k, w := range loop.ways {
					if math.Abs(m.x[firstBias+k]) > w.trip/2 {
						t.Fatalf("seed %d: an asymmetry of %.6f s on a way of %.6f s", seed, m.x[firstBias+k], w.trip)
					}
				}
			}
		}
		if off := (c.freq - c.drift) * 1e6; math.Abs(off) > 20 || math.Abs(c.behind) > 20e-3 {
			t.Errorf("seed %d: the frequency is %+.1f ppm off, the clock is behind by %.6f s", seed, off, c.behind)
		}
	}
}

// TestManyServers: the one that was not heard of for longest makes room.
func TestManyServers(t *testing.T) {
	s := New(0, UnknownFreq, 0)
	for i := range 5 * maxServers {
		s.Observe([]Reading{{server(i), time.Millisecond, 10 * time.Millisecond, time.Duration(i+1) * time.Second}})
		sane(t, s.Estimate(time.Duration(i+1)*time.Second))
	}
	if len(s.ways) != maxServers || s.index(server(5*maxServers-1)) < 0 || len(s.bank.models[0].x) != firstBias+maxServers {
		t.Errorf("%d ways, %d states", len(s.ways), len(s.bank.models[0].x))
	}
}

// TestManyServersInARound: those that are known keep their places.
func TestManyServersInARound(t *testing.T) {
	s := New(0, UnknownFreq, 0)
	round := func(n int, at time.Duration) {
		var readings []Reading
		for i := range n {
			readings = append(readings, Reading{server(n - 1 - i), time.Millisecond, 10 * time.Millisecond, at})
		}
		s.Observe(readings)
		sane(t, s.Estimate(at))
	}
	round(5, time.Second)
	for i := range 10 {
		round(3*maxServers, time.Duration(i+2)*time.Minute)
	}
	for i := range 5 {
		if k := s.index(server(i)); k < 0 || len(s.ways[k].delays) != 11 {
			t.Errorf("server %d lost its place", i)
		}
	}
	if len(s.ways) != maxServers || len(s.bank.models[0].x) != firstBias+maxServers {
		t.Errorf("%d ways, %d states", len(s.ways), len(s.bank.models[0].x))
	}
}

// FuzzReadings: any values, of readings and of what is done to the clock, are bearable.
func FuzzReadings(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Add([]byte("\x01\xff\xff\xff\xff\xff\xff\xff\x7f\x00\x00\x00\x00\x00\x00\x00\x80\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		word := func(i int) int64 {
			var b [8]byte
			if 8*i < len(data) {
				copy(b[:], data[8*i:])
			}
			return int64(binary.LittleEndian.Uint64(b[:]))
		}
		s := New(math.Float64frombits(uint64(word(0))), math.Float64frombits(uint64(word(1))), math.Float64frombits(uint64(word(2))))
		for i := 3; 8*i < min(len(data), 1<<10); i += 4 {
			at := time.Duration(word(i) >> 1)
			d := time.Duration(word(i + 1))
			switch word(i+3) & 3 {
			case 0:
				s.Restart(at, d, time.Duration(word(i+2)))
			case 1:
				s.Steer(at, Slew{d.Seconds(), at + time.Duration(word(i)), int(word(i))}, math.Float64frombits(uint64(word(i+2))))
			case 2:
				s.Step(d >> 8)
			default:
				s.Observe([]Reading{{server(int(word(i+3)>>2) & 31), d, time.Duration(word(i + 2)), at}})
			}
			sane(t, s.Estimate(at))
			for _, m := range s.bank.models {
				if s.begun && len(s.ways) > 0 && math.Abs(m.x[freq]) > MaxFreq {
					t.Fatalf("a filter holds a frequency of %g", m.x[freq])
				}
				for _, v := range append(slices.Clone(m.x), m.p...) {
					if math.IsNaN(v) || math.IsInf(v, 0) {
						t.Fatalf("a filter holds %v", m.filter)
					}
				}
			}
			if s.Noise() < 0 {
				t.Fatalf("noise %s", s.Noise())
			}
		}
	})
}
