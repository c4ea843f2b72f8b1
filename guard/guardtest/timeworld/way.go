package timeworld

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net/netip"
	"time"
)

// way is what is between the host and a server. Durations are in seconds.
type way struct {
	there, back float64   // least delays
	queue       float64   // mean of what queues add in each direction
	shape       float64   // of their gamma distribution; 1: exponential
	retry       float64   // the probability that a packet is sent again on a radio, more than once too
	loss        float64   // the probability that an exchange is lost
	lanes       []float64 // what each of several parallel ways adds; a hash of both ends chooses, in each direction (ECMP)
	loads       []load
}

// load is a queue towards the server that stands: it rises, and then it is gone.
type load struct {
	from, length time.Duration
	peak         float64
}

func (l load) at(t time.Duration) float64 {
	if t < l.from || t > l.from+l.length {
		return 0
	}
	return l.peak * (t - l.from).Seconds() / l.length.Seconds()
}

const radio = 30e-3 // s: what one more try on a radio takes in the mean

// delays draws what one exchange meets.
func (w *way) delays(r *rand.Rand, t time.Duration, src, dst netip.AddrPort) (there, back float64, lost bool) {
	standing := 0.
	for _, l := range w.loads {
		standing += l.at(t)
	}
	there = w.there + w.lane(src, dst) + w.queued(r) + standing*(0.85+0.3*r.Float64())
	back = w.back + w.lane(dst, src) + w.queued(r)
	return there, back, r.Float64() < w.loss
}

func (w *way) queued(r *rand.Rand) float64 {
	d := w.queue / w.shape * gamma(r, w.shape)
	for r.Float64() < w.retry {
		d += radio * r.ExpFloat64()
	}
	return d
}

// lane is what the way adds that a router chose by a hash of addresses and ports.
func (w *way) lane(from, to netip.AddrPort) float64 {
	if len(w.lanes) == 0 {
		return 0
	}
	h := fnv.New64a()
	for _, end := range []netip.AddrPort{from, to} {
		a := end.Addr().As16()
		h.Write(binary.BigEndian.AppendUint16(a[:], end.Port()))
	}
	return w.lanes[scramble(h.Sum64())%uint64(len(w.lanes))]
}

// scramble spreads what a hash knows over all of its bits.
func scramble(x uint64) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], x*0x9e3779b97f4a7c15)
	return binary.LittleEndian.Uint64(b[:])
}

// gamma draws from a gamma distribution of scale 1 (Marsaglia and Tsang 2000).
func gamma(r *rand.Rand, shape float64) float64 {
	if shape == 1 {
		return r.ExpFloat64()
	}
	if shape < 1 {
		return gamma(r, shape+1) * math.Pow(r.Float64(), 1/shape)
	}
	d := shape - 1./3
	for {
		x := r.NormFloat64()
		v := math.Pow(1+x/math.Sqrt(9*d), 3)
		if v > 0 && math.Log(1-r.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}
