package clockbench

import (
	"context"
	"math"
	"net/netip"
	"sync"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/lab"
	"ntpveil/guard/query"
	"ntpveil/guard/sysclock"
)

const (
	rawPort = 30123 // of the first one; the relay counts by it
	rawPoll = 64 * time.Second
)

// raw asks one server, and is two programs: a control that holds the last sample,
// and the PLL.
type raw struct {
	host *lab.Node
	from netip.AddrPort
	to   netip.AddrPort

	mu   sync.Mutex
	last float64
	pll  pll
}

func newRaw(host *lab.Node, i int, to netip.AddrPort) *raw {
	return &raw{host: host, from: netip.AddrPortFrom(host.Addr6, uint16(rawPort+i)), to: to}
}

// run asks until ctx is done.
func (r *raw) run(ctx context.Context) {
	t := time.NewTicker(rawPoll)
	defer t.Stop()
	for {
		_ = r.host.Do(func() error { r.ask(ctx); return nil })
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *raw) ask(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := query.Asker{Now: sysclock.Mono}
	a.Ask(ctx, guard.Ask{From: r.from, To: r.to, By: sysclock.Mono() + 5*time.Second}, func(ev guard.Answered) {
		cancel()
		if ev.Err != nil || ev.Kiss != "" {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.last = ev.Sample.Offset.Seconds()
		r.pll.sample(time.Now(), r.last)
	})
}

// lastSample and pllReading are its two programs.
type (
	lastSample struct{ *raw }
	pllReading struct{ *raw }
	zero       struct{}
)

func (l lastSample) read(context.Context) (Reading, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := reading(time.Now())
	r.Offset = l.last
	return r, nil
}

func (p pllReading) read(context.Context) (Reading, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := reading(time.Now())
	r.Offset = p.pll.ahead(r.At)
	return r, nil
}

func (zero) read(context.Context) (Reading, error) {
	return reading(time.Now()), nil
}

// pll is the kernel's, with the time constant that systemd-timesyncd sets for a
// poll interval of 64 s: each second a sixteenth of what is left of the phase
// goes, and with each sample 2^-12 of it, times the seconds since the one before, into the
// frequency. From 0.4 s on timesyncd steps; nothing here comes near.
type pll struct {
	began   bool
	at      time.Time // of the last sample
	sum     float64   // s: slewed until then
	freq    float64   // s/s
	pending float64   // s
}

const (
	pllPhase = 1. / 16
	pllFreq  = 1. / (1 << 12)
)

// ahead is by how much the clock that it steers is ahead of the machine's.
func (p *pll) ahead(now time.Time) float64 {
	dt := now.Sub(p.at).Seconds()
	return p.sum + p.freq*dt + p.pending*(1-math.Pow(1-pllPhase, dt))
}

func (p *pll) sample(now time.Time, offset float64) {
	if !p.began {
		p.began, p.at = true, now
	}
	dt := now.Sub(p.at).Seconds()
	p.sum, p.at = p.ahead(now), now
	p.pending = offset - p.sum
	p.freq += p.pending * dt * pllFreq
}
