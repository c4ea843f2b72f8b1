package clockbench

import (
	"math/rand/v2"
	"time"
)

const (
	startPhase = 0.030  // s
	startFreq  = 20e-6  // s/s
	wander     = 1e-9   // s/s by which the frequency walks in a second (RMS)
	leap       = 0.1e-6 // s/s by which it leaps (RMS)
	leapEvery  = 900    // s, in the mean
)

// trajectory is by how much the servers are ahead of the machine's clock: the truth.
type trajectory struct {
	began time.Time
	phase []float64 // s, at each second
}

func newTrajectory(rnd *rand.Rand, still bool, began time.Time, length time.Duration) *trajectory {
	t := &trajectory{began: began}
	phase, freq := startPhase, startFreq
	for range int(length.Seconds()) + 2 {
		t.phase = append(t.phase, phase)
		phase += freq
		if still {
			continue
		}
		freq += wander * rnd.NormFloat64()
		if rnd.Float64() < 1./leapEvery {
			freq += leap * rnd.NormFloat64()
		}
	}
	return t
}

// at is by how much the servers are ahead at a time of the machine's clock.
// Beyond both ends it goes on straight.
func (t *trajectory) at(when time.Time) float64 {
	s := when.Round(0).Sub(t.began.Round(0)).Seconds()
	i := min(max(int(s), 0), len(t.phase)-2)
	return t.phase[i] + (t.phase[i+1]-t.phase[i])*(s-float64(i))
}

// tell is what a server says that the time is.
func (t *trajectory) tell(when time.Time, bias time.Duration) time.Time {
	return when.Add(bias + seconds(t.at(when)))
}

func seconds(s float64) time.Duration { return time.Duration(s * 1e9) }
