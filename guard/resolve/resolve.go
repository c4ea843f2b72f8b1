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

// maxAnswers is how many addresses of each family are looked at.
const maxAnswers = 32

var (
	// ErrNotFound: the name does not exist, or has no address. Any other failure
	// of a name may pass.
	ErrNotFound = errors.New("no such name, or it has no address")
	errZone     = errors.New("an address with a zone is no server")
)

// Resolver looks names up.
type Resolver struct {
	Now func() time.Duration // reads CLOCK_MONOTONIC
	DNS *net.Resolver        // nil: the system's, in Go
}

// Lookup ends with the addresses of a name, or with an error. It takes nine
// tenths of its time at most: whoever asked gives up at the deadline, and one
// family that is never answered must not take the other along.
func (r *Resolver) Lookup(ctx context.Context, job guard.Lookup) guard.Resolved {
	ctx, cancel := context.WithTimeout(ctx, (job.By-r.Now())*9/10)
	defer cancel()
	addrs, err := r.addresses(ctx, job.Name)
	return guard.Resolved{Key: job.Key, Addrs: addrs, Err: err}
}

func (r *Resolver) addresses(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return literal(a)
	}
	six, four := r.begin(ctx, "ip6", name), r.begin(ctx, "ip4", name)
	a, b := <-six, <-four
	if out := sift(a.addrs, b.addrs); len(out) > 0 {
		return out, nil
	}
	return nil, why(a.err, b.err)
}

func literal(a netip.Addr) ([]netip.Addr, error) {
	if a.Zone() != "" {
		return nil, fmt.Errorf("look up %s: %w", a, errZone)
	}
	return []netip.Addr{a.Unmap()}, nil
}

// answer is that of one address family.
type answer struct {
	addrs []netip.Addr
	err   error
}

// begin asks for one address family. The answer comes when ctx is done at the latest.
func (r *Resolver) begin(ctx context.Context, network, name string) <-chan answer {
	dns := r.DNS
	if dns == nil {
		dns = &net.Resolver{PreferGo: true}
	}
	c := make(chan answer, 1)
	go func() {
		addrs, err := dns.LookupNetIP(ctx, network, name)
		c <- answer{addrs, err}
	}()
	return c
}

// sift makes the answers plain: no zones, no IPv4 in IPv6, each once, IPv6 first.
func sift(families ...[]netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, addrs := range families {
		most := len(out) + maxAnswers
		for _, a := range addrs {
			a = a.Unmap()
			if len(out) < most && a.IsValid() && a.Zone() == "" && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
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
	return ErrNotFound
}
