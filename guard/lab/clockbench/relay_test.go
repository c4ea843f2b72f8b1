package clockbench

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"ntpveil/guard/lab"
	"ntpveil/guard/query"
	"ntpveil/guard/sysclock"
)

// One exchange with each server shows what the relay was told to do, and the truth.
func TestRelay(t *testing.T) {
	for name, p := range map[string]Profile{
		"the floor":   Floor,
		"both ways":   {Still: true, Delay: 20 * ms},
		"a long load": {Still: true, Delay: ms, Busy: Busy{For: 1e9 * ms, Every: 1, There: 60 * ms}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := lab.ForTest(t, lab.Options{})
			r := &relay{Profile: p, seed: 1, truth: newTrajectory(nil, true, time.Now(), time.Minute)}
			r.busy = p.Busy.times(rand.New(rand.NewPCG(1, 1)), time.Minute)
			if err := settle(l); err != nil {
				t.Fatal(err)
			}
			if err := r.open(l); err != nil {
				t.Fatal(err)
			}
			defer r.close()
			for _, at := range r.addrs {
				offset, delay := exchange(t, l, at, 8)
				offset, delay = offset-r.truth.at(time.Now()), delay-2*p.Delay.Seconds()
				if p.Busy.There != 0 {
					offset -= delay / 2 // it is all on the way there
				} else if delay < -100e-6 || delay > 0.02 {
					t.Errorf("%s: a delay of %g s too much", at, delay)
				}
				if math.Abs(offset) > 1e-3 {
					t.Errorf("%s: an offset of %g s beside the truth", at, offset)
				}
			}
			if n := len(r.exchanges()["ntpveil"]); n != Servers*8 {
				t.Errorf("%d exchanges were counted", n)
			}
		})
	}
}

// exchange makes some and returns offset and delay of the fastest.
func exchange(t *testing.T, l *lab.Lab, to netip.AddrPort, times int) (offset, delay float64) {
	t.Helper()
	delay = math.Inf(1)
	err := l.Host.Do(func() error {
		for range times {
			got := query.Once(t.Context(), to, sysclock.Mono, 2*time.Second)
			if got.Err != nil {
				return got.Err
			}
			if d := got.Sample.Delay.Seconds(); d < delay {
				offset, delay = got.Sample.Offset.Seconds(), d
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return offset, delay
}

// What is drawn is what a profile says.
func TestWays(t *testing.T) {
	const draws = 20000
	for _, p := range Profiles {
		rnd := rand.New(rand.NewPCG(1, 2))
		w := &way{Profile: p, rnd: rnd, seed: 3, busy: p.Busy.times(rnd, draws*time.Second)}
		var there, back, lost float64
		least, to := time.Hour, netip.MustParseAddr("2001:db8::1")
		for i := range draws {
			from := netip.AddrFrom16([16]byte{1, byte(i >> 8), byte(i)})
			x := w.draw(time.Duration(i)*time.Second, from, to)
			there += x.there.Seconds() / draws
			back += x.back.Seconds() / draws
			if x.lost {
				lost += 1. / draws
			}
			least = min(least, x.there, x.back)
		}
		share := 0.
		if p.Busy.For != 0 {
			share = p.Busy.For.Seconds() / (p.Busy.For + p.Busy.Every).Seconds()
		}
		quiet := (p.Delay + p.Jitter + p.Spread/2).Seconds()
		for what, x := range map[string][2]float64{
			"there": {there, quiet + share*p.Busy.There.Seconds()},
			"back":  {back, quiet + share*p.Busy.Back.Seconds()},
			"lost":  {lost, p.Loss + share*p.Busy.Loss},
		} {
			if math.Abs(x[0]-x[1]) > 0.15*x[1] {
				t.Errorf("%s, %s: %g, want %g", p.Name, what, x[0], x[1])
			}
		}
		if least < p.Delay {
			t.Errorf("%s: a way of %s", p.Name, least)
		}
	}
}

// The path is the same for the same addresses, and another one for others.
func TestPaths(t *testing.T) {
	w := &way{Profile: Profile{Spread: ms}, rnd: rand.New(rand.NewPCG(1, 2)), seed: 3, busy: new(busy)}
	a, b, to := netip.MustParseAddr("2001:db8::a"), netip.MustParseAddr("2001:db8::b"), netip.MustParseAddr("2001:db8::1")
	if x, y := w.draw(0, a, to), w.draw(time.Hour, a, to); x != y {
		t.Errorf("one source has two paths: %v, %v", x, y)
	}
	if x, y := w.draw(0, a, to), w.draw(0, b, to); x.there == y.there || x.back == y.back || x.there == x.back {
		t.Errorf("two sources have one path: %v, %v", x, y)
	}
}

// The trajectory begins as is said, is continuous, and the same for a seed.
func TestTrajectory(t *testing.T) {
	began := time.Now()
	draw := func(still bool) *trajectory {
		return newTrajectory(rand.New(rand.NewPCG(7, 0)), still, began, time.Hour)
	}
	a, b, straight := draw(false), draw(false), draw(true)
	for s := 0.0; s < 3600; s += 0.5 {
		at := began.Add(seconds(s))
		if a.at(at) != b.at(at) {
			t.Fatal("one seed, two trajectories")
		}
		if step := a.at(at.Add(ms)) - a.at(at); math.Abs(step) > 30e-6*1e-3 {
			t.Fatalf("%g s: a step of %g s in a millisecond", s, step)
		}
		if got, want := straight.at(at), 0.03+20e-6*s; math.Abs(got-want) > 1e-9 {
			t.Fatalf("%g s: %g, want %g", s, got, want)
		}
	}
	if off := math.Abs(a.at(began.Add(time.Hour)) - straight.at(began.Add(time.Hour))); off < 1e-6 || off > 5e-3 {
		t.Errorf("an hour of wandering made %g s", off)
	}
}
