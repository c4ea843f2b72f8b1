package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ntpveil/guard"
	"ntpveil/guard/query"
	"ntpveil/guard/resolve"
	"ntpveil/guard/sysclock"
)

const queryTime = 5 * time.Second

// answerLine is what one server answered, or why it did not: without an answer
// there are no figures.
type answerLine struct {
	Server  string `json:"server"`
	Address string `json:"address,omitempty"`
	*Answer
	Failed string `json:"failed,omitempty"`
}

// Answer is what one exchange found out.
type Answer struct {
	Time    time.Time `json:"time"` // UTC
	Offset  float64   `json:"offset_s"`
	Error   float64   `json:"error_s"`
	Delay   float64   `json:"delay_s"`
	Stratum int       `json:"stratum"`
	Leap    string    `json:"leap"`
}

func queryCmd(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "query SERVER...", Short: "Ask each server once for the time, and change nothing",
		Long:    "One exchange with each server, printed as sntp does. It leaves from the stable address,\nwhich the server sees: the guard is the daemon's.",
		Example: "  ntpveil query 2.debian.pool.ntp.org\n  ntpveil query --json [2001:db8::1]:123",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			complain(cmd.ErrOrStderr(), "asking from the stable address: the servers see it")
			lines, failed := []answerLine{}, 0
			for _, name := range args {
				line := ask(cmd.Context(), name)
				if err := cmd.Context().Err(); err != nil {
					return fmt.Errorf("query %s: %w", name, err)
				}
				if line.Failed != "" {
					failed++
				}
				if lines = append(lines, line); o.json {
					continue
				}
				if err := printAnswer(cmd, line); err != nil {
					return err
				}
			}
			if o.json {
				if err := printJSON(cmd.OutOrStdout(), lines); err != nil {
					return err
				}
			}
			if failed > 0 {
				return fmt.Errorf("query: %d of %d servers gave no time", failed, len(args))
			}
			return nil
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

func printAnswer(cmd *cobra.Command, l answerLine) (err error) {
	if l.Failed != "" {
		complain(cmd.ErrOrStderr(), fmt.Sprintf("query %s: %s", l.Server, l.Failed))
		return nil
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %+.6f +/- %.6f %s %s s%d %s\n", l.Time.Local().Format("2006-01-02 15:04:05.000000 (-0700)"),
		l.Offset, l.Error, l.Server, l.Address, l.Stratum, l.Leap)
	return err
}

// ask asks one server, at the first address of its name that there is a route to.
func ask(ctx context.Context, name string) answerLine {
	line := answerLine{Server: name}
	to, err := find(ctx, name)
	if err != nil {
		line.Failed = err.Error()
		return line
	}
	line.Address = to.Addr().String()
	ev := query.Once(ctx, to, sysclock.Mono, queryTime)
	switch {
	case ev.Kiss != "":
		line.Failed = "kiss-o'-death " + ev.Kiss
	case ev.Err != nil:
		line.Failed = ev.Err.Error()
	default:
		s := ev.Sample
		line.Answer = &Answer{time.Now().Add(s.Offset).UTC(), s.Offset.Seconds(), s.RootDistance().Seconds(), s.Delay.Seconds(),
			int(s.Stratum), [...]string{"no-leap", "add-leap", "del-leap"}[min(s.Leap, 2)]}
	}
	return line
}

// find makes an address of what was written: a name or an address, with or
// without a port.
func find(ctx context.Context, name string) (netip.AddrPort, error) {
	host, port := name, uint16(123)
	if bare, ok := strings.CutPrefix(name, "["); ok && strings.HasSuffix(bare, "]") {
		host = strings.TrimSuffix(bare, "]")
	} else if h, p, err := net.SplitHostPort(name); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return netip.AddrPort{}, fmt.Errorf("port %q: a number from 1 to 65535", p)
		}
		host, port = h, uint16(n)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a.Unmap(), port), nil
	}
	r := resolve.Resolver{Now: sysclock.Mono}
	ev := r.Lookup(ctx, guard.Lookup{Name: host, By: sysclock.Mono() + queryTime})
	if ev.Err != nil {
		return netip.AddrPort{}, ev.Err
	}
	if len(ev.Addrs) == 0 {
		return netip.AddrPort{}, errors.New("no address")
	}
	return routed(ctx, ev.Addrs, port), nil
}

// routed is the first address that the host has a route to, or else the first. To
// connect sends nothing.
func routed(ctx context.Context, addrs []netip.Addr, port uint16) netip.AddrPort {
	var d net.Dialer
	for _, a := range addrs {
		to := netip.AddrPortFrom(a, port)
		if c, err := d.DialContext(ctx, "udp", to.String()); err == nil {
			_ = c.Close()
			return to
		}
	}
	return netip.AddrPortFrom(addrs[0], port)
}
