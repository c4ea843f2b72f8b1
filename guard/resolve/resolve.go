package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard"
)

// maxAnswers is how many addresses of a name are looked at.
const maxAnswers = 64

// ErrNotFound is returned where the name exists nowhere; any other error may pass.
var ErrNotFound = errors.New("no such name")

// Resolver looks names up. Now reads CLOCK_MONOTONIC; DNS may be nil.
type Resolver struct {
	Now func() time.Duration
	DNS *net.Resolver // nil: the system's, in Go
}

// Lookup ends with the addresses of a name, IPv6 first, or with an error.
func (r *Resolver) Lookup(ctx context.Context, job guard.Lookup) guard.Resolved {
	ctx, cancel := context.WithTimeout(ctx, max(job.By-r.Now(), 0))
	defer cancel()
	addrs, err := r.addresses(ctx, job.Name)
	return guard.Resolved{Key: job.Key, Addrs: addrs, Err: err}
}

func (r *Resolver) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	dns := r.DNS
	if dns == nil {
		dns = &net.Resolver{PreferGo: true}
	}
	type answer struct {
		addrs []netip.Addr
		err   error
	}
	ask := func(network string) chan answer {
		c := make(chan answer, 1)
		go func() {
			addrs, err := dns.LookupNetIP(ctx, network, name)
			c <- answer{addrs, err}
		}()
		return c
	}
	six, four := ask("ip6"), ask("ip4")
	a, b := <-six, <-four
	out := sift(append(a.addrs, b.addrs...))
	if len(out) > 0 {
		return out, nil
	}
	return nil, why(a.err, b.err)
}

// sift makes the answers plain: no zones, no IPv4 in IPv6, each once, IPv6 first.
func sift(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		if a.Zone() != "" || slices.Contains(out, a) || len(out) == maxAnswers {
			continue
		}
		out = append(out, a)
	}
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return b.BitLen() - a.BitLen() })
	return out
}

// why picks the error that says more: a name that is missing for both families
// is missing, everything else may pass.
func why(six, four error) error {
	for _, err := range []error{six, four} {
		var d *net.DNSError
		if err != nil && !(errors.As(err, &d) && d.IsNotFound) {
			return err
		}
	}
	if six == nil && four == nil {
		return errors.New("no address")
	}
	return fmt.Errorf("%w: %w", ErrNotFound, errors.Join(six, four))
}
