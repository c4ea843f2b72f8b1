package query

import (
	"errors"
	"net/netip"
	"time"

	"github.com/beevik/ntp"

	"ntpveil/guard/selection"
)

const (
	ownPrecision = time.Microsecond // of reading our clock
	drift        = 15               // ppm by which a clock may be off (RFC 5905, PHI)
	noStep       = time.Millisecond // by which two clocks may disagree without one having been stepped
	era          = 1 << 32 * time.Second
)

var (
	errStepped = errors.New("check answer: the host's clock was stepped during the exchange")
	errHeld    = errors.New("check answer: the server says that it held the query for longer than the whole exchange took")
)

// sample makes a sample of an answer that was checked.
func (a *Asker) sample(c *conn, r *ntp.Response, to netip.AddrPort) (selection.Sample, error) {
	elapsed, waited := c.read.mono-c.sent.mono, c.left.Sub(c.sent.wall) // the library knows of sent alone
	precision := min(max(r.Precision, 1), time.Second)
	switch {
	case (c.read.wall.Sub(c.sent.wall) - elapsed).Abs() > noStep+c.sent.spread+c.read.spread:
		return selection.Sample{}, errStepped
	case held(c.answer[:]) > c.arrived.Sub(c.left)+precision+ownPrecision:
		return selection.Sample{}, errHeld
	}
	return selection.Sample{
		Server:     to,
		At:         c.read.mono - c.read.wall.Sub(c.arrived),
		Offset:     a.unfold(c.arrived, r.ClockOffset-waited/2),
		Delay:      max(r.RTT-waited, 0),
		Dispersion: precision + ownPrecision + elapsed*drift/1_000_000,
		RootDelay:  r.RootDelay,
		RootDisp:   r.RootDispersion,
		Stratum:    r.Stratum,
		Leap:       uint8(r.Leap),
		RefID:      r.ReferenceID,
		Precision:  precision,
	}, nil
}

// unfold finds the era. An offset is known modulo 136 years, and the library
// gives the one that is nearest to the host's clock, which is right unless that
// clock is wrong by decades: stands before Floor, or ran ahead until the next era
// seemed near.
func (a *Asker) unfold(clock time.Time, offset time.Duration) time.Duration {
	switch told := clock.Add(offset); {
	case a.Floor.IsZero():
	case clock.Before(a.Floor) && told.Before(a.Floor):
		return offset + era
	case !told.Before(a.Floor.Add(era)):
		return offset - era
	}
	return offset
}
