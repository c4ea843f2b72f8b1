package query

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/beevik/ntp"

	"ntpveil/guard"
	"ntpveil/guard/selection"
)

const (
	ownPrecision = time.Microsecond // of reading our clock
	drift        = 15e-6            // s/s, RFC 5905's PHI
)

// Asker makes exchanges. Now reads CLOCK_MONOTONIC.
type Asker struct {
	Now func() time.Duration
}

// Ask makes one exchange, tells how it ended exactly once, and keeps the socket
// open until ctx is done: an answer that comes late must not meet a closed port.
func (a *Asker) Ask(ctx context.Context, ask guard.Ask, answered func(guard.Answered)) {
	c, err := dial(ctx, ask.From, ask.To)
	if err != nil {
		answered(guard.Answered{Key: ask.Key, Err: err})
		return
	}
	defer c.UDPConn.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ev := a.exchange(c, ask.To, ask.By-a.Now())
	ev.Key = ask.Key
	answered(ev)
	<-ctx.Done()
}

// Once makes one exchange from whatever source address the kernel picks.
func Once(ctx context.Context, to netip.AddrPort, now func() time.Duration, timeout time.Duration) guard.Answered {
	c, err := dial(ctx, netip.AddrPort{}, to)
	if err != nil {
		return guard.Answered{Err: err}
	}
	defer c.UDPConn.Close()
	a := Asker{Now: now}
	return a.exchange(c, to, timeout)
}

// exchange asks and makes a sample of the answer.
func (a *Asker) exchange(c *conn, to netip.AddrPort, timeout time.Duration) guard.Answered {
	if timeout <= 0 {
		return guard.Answered{Err: errors.New("no time left")}
	}
	r, err := ask(c, to, timeout)
	switch {
	case c.kiss != "":
		return guard.Answered{Kiss: string(c.kiss)}
	case err != nil:
		return guard.Answered{Err: err}
	}
	at := a.Now()
	if !c.arrived.IsZero() {
		at -= max(time.Since(c.arrived), 0)
	}
	s := selection.Sample{
		Server: to, At: at, Offset: r.ClockOffset, Delay: max(r.RTT, 0),
		Dispersion: precision(r.Precision) + ownPrecision + time.Duration(drift*float64(r.RTT)),
		RootDelay:  r.RootDelay, RootDisp: r.RootDispersion, Stratum: r.Stratum, Leap: uint8(r.Leap),
		RefID: r.ReferenceID, Precision: precision(r.Precision),
	}
	return guard.Answered{Sample: s}
}

// precision bounds what a server claims: from 1 ns to a second.
func precision(d time.Duration) time.Duration { return min(max(d, 1), time.Second) }

// ask runs the library over our connection. A panic of it is an error of the exchange.
func ask(c *conn, to netip.AddrPort, timeout time.Duration) (r *ntp.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			r, err = nil, fmt.Errorf("parse answer: %v", p)
		}
	}()
	r, err = ntp.QueryWithOptions(to.String(), ntp.QueryOptions{
		Timeout:       timeout,
		GetSystemTime: c.time,
		Dialer:        func(_, _ string) (net.Conn, error) { return keepOpen{c}, nil },
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// keepOpen is a connection that the library does not get to close.
type keepOpen struct{ *conn }

func (keepOpen) Close() error { return nil }
