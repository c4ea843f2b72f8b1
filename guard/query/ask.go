package query

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/beevik/ntp"

	"ntpveil/guard"
	"ntpveil/guard/selection"
)

// Asker makes exchanges.
type Asker struct {
	Now func() time.Duration // reads CLOCK_MONOTONIC
	// Floor is a time that is certainly past, such as the build date; zero: none
	// is known. A clock that stands before it, or seven decades ahead, does not say in
	// which NTP era the server is (they are 136 years long, and one begins in 2036):
	// the first one that lies behind Floor is meant.
	Floor time.Time
	// Protect prepares the protection of a query (package nts).
	Protect func(guard.NTS) (Protection, error)
}

// Protection is that of one query and its answer (RFC 8915 section 5).
type Protection interface {
	// Seal makes the whole request of its header.
	Seal(header []byte) []byte
	// Open judges a datagram: whether it is the server's answer to this very
	// query, and with what cookies, or else whether it is an NTS NAK, which
	// anybody who saw the query can have made.
	Open(answer []byte) (cookies []guard.Secret, nak, ok bool)
}

// Ask makes one exchange, tells how it ended exactly once, and keeps the socket
// open until ctx is done. Where no socket could be had it returns at once.
func (a *Asker) Ask(ctx context.Context, ask guard.Ask, answered func(guard.Answered)) {
	c, err := dial(ctx, ask.From, ask.To, ask.Device, a.Now)
	if err != nil {
		answered(guard.Answered{Key: ask.Key, Err: err})
		return
	}
	defer c.udp.Close()
	ev := a.protected(ctx, c, ask)
	deafen(c.udp)
	ev.Key = ask.Key
	answered(ev)
	<-ctx.Done()
}

// Once makes one exchange from whatever source address the kernel picks. now
// reads CLOCK_MONOTONIC.
func Once(ctx context.Context, to netip.AddrPort, now func() time.Duration, timeout time.Duration) guard.Answered {
	c, err := dial(ctx, netip.AddrPort{}, to, "", now)
	if err != nil {
		return guard.Answered{Err: err}
	}
	defer c.udp.Close()
	a := Asker{Now: now}
	return a.exchange(ctx, c, to, timeout)
}

// protected makes the exchange of an ask, with the protection that it demands.
func (a *Asker) protected(ctx context.Context, c *conn, ask guard.Ask) guard.Answered {
	if ask.NTS != nil {
		var err error
		if c.nts, err = a.Protect(*ask.NTS); err != nil {
			return guard.Answered{Err: err}
		}
	}
	ev := a.exchange(ctx, c, ask.To, ask.By-a.Now())
	ev.Cookies, ev.NAK = c.cookies, c.nak && ev.Err != nil
	return ev
}

// exchange asks, and makes a sample of the answer.
func (a *Asker) exchange(ctx context.Context, c *conn, to netip.AddrPort, timeout time.Duration) guard.Answered {
	if timeout <= 0 {
		return guard.Answered{Err: errors.New("ask server: no time left")}
	}
	if err := c.udp.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return guard.Answered{Err: fmt.Errorf("ask server: %w", err)}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.udp.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	s, err := a.measure(wire{c}, c, to)
	var kiss kissError
	switch {
	case errors.As(err, &kiss):
		return guard.Answered{Kiss: string(kiss)}
	case err != nil:
		return guard.Answered{Err: c.explain(ctx, err)}
	}
	return guard.Answered{Sample: s}
}

// measure makes a sample of one exchange over a connection.
func (a *Asker) measure(w net.Conn, c *conn, to netip.AddrPort) (selection.Sample, error) {
	r, err := run(w, c, to)
	if err != nil {
		return selection.Sample{}, err
	}
	return a.sample(c, r, to)
}

// run lets the library ask over a connection. A panic of it is an error of the exchange.
func run(w net.Conn, c *conn, to netip.AddrPort) (r *ntp.Response, err error) {
	defer func() {
		if p := recover(); p != nil {
			r, err = nil, fmt.Errorf("read answer: the library gave up: %v", p)
		}
	}()
	return ntp.QueryWithOptions(to.String(), ntp.QueryOptions{
		GetSystemTime: c.time,
		Dialer:        func(_, _ string) (net.Conn, error) { return w, nil },
	})
}

// explain makes of a deadline what an admin wants to read.
func (c *conn) explain(ctx context.Context, err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("ask server: %w", ctx.Err())
	}
	text := "no answer"
	if n := c.strays + dropped(c.udp); n > 0 && c.icmp == nil {
		text = fmt.Sprintf("no answer, but %d datagrams that are none", n)
	}
	if c.icmp != nil {
		return fmt.Errorf("%s: %w", text, c.icmp)
	}
	if c.nak {
		return errors.New("no answer that is authentic, and an NTS NAK, which need not be")
	}
	return errors.New(text)
}
