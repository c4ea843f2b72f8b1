package timeworld

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"ntpveil/guard/selection"
)

// server is one server. What it is off by is positive where it is ahead.
type server struct {
	addr      netip.AddrPort
	way       way
	stratum   uint8
	leap      uint8
	rootDelay time.Duration
	rootDisp  time.Duration
	err       float64 // s: its own, within what it claims
	lie       *lie    // shared by those who collude; nil: it is honest
	tiny      bool    // it claims no distance at all, and says that it held the packet as long as it took
	dead      bool
	asked     uint64
	last      selection.Sample // its last answer
}

// lie is what a falseticker adds to the truth.
type lie struct {
	constant float64       // s
	drag     float64       // s/s, from a time on
	walk     float64       // s by which it walks at random in a second
	from     time.Duration // before, it is honest
	rng      *rand.Rand
	walked   float64
	at       time.Duration
}

func (l *lie) now(t time.Duration) float64 {
	if l == nil || t < l.from {
		return 0
	}
	if l.at = max(l.at, l.from); l.walk != 0 {
		for ; l.at < t; l.at += grid {
			l.walked += l.walk * 4 * l.rng.NormFloat64() // 4 is the root of the grid's 16 s
		}
	}
	return l.constant + l.drag*(t-l.from).Seconds() + l.walked
}

func serverAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", 0x101+i)), 123)
}

// exchange is one query on its way.
type exchange struct {
	server int
	number uint64 // the how manyth of that server
	src    netip.AddrPort
	sent   time.Duration // by the truth
	there  float64       // s
	back   float64
	lost   bool
	behind float64 // s: what the clock lacked when it was sent
}

// meet draws what an exchange meets. It depends on the seed, the server, the
// number of the exchange and the time alone.
func (s *server) meet(seed uint64, x exchange) exchange {
	r := rand.New(rand.NewPCG(seed*0x9e3779b97f4a7c15+uint64(x.server), x.number))
	x.there, x.back, x.lost = s.way.delays(r, x.sent, x.src, s.addr)
	return x
}

func (x exchange) took() time.Duration { return max(duration(x.there+x.back), 1) }

// arrives is when the reply is there, by the truth.
func (x exchange) arrives() time.Duration { return x.sent + x.took() }

// offset is what is measured, in s, if the clock lacks so much at the arrival.
func (s *server) offset(x exchange, behind float64) float64 {
	return (x.behind+behind)/2 + (x.there-x.back)/2 + s.err + s.lie.now(x.sent)
}

// sample is what comes of an exchange.
func (s *server) sample(x exchange, behind float64) selection.Sample {
	out := selection.Sample{
		Server: s.addr, Offset: duration(s.offset(x, behind)), Delay: x.took(),
		Dispersion: 2*time.Microsecond + x.took()*15/1_000_000,
		RootDelay:  s.rootDelay, RootDisp: s.rootDisp, Stratum: s.stratum, Leap: s.leap, Precision: time.Microsecond,
	}
	if s.tiny {
		out.Delay, out.RootDelay, out.RootDisp = time.Microsecond, 0, 0
	}
	return out
}
