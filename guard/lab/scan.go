package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Scan is what a scanner tries on an address.
type Scan struct {
	Target netip.Addr
	TCP    []uint16      // connects
	UDP    []uint16      // datagrams
	Echo   bool          // ICMPv6 echo request
	From   uint16        // source port; 0: any
	Wait   time.Duration // for answers; 0: 500 ms

	Payload []byte // of datagrams; nil: some text
}

// State is what a probe found.
type State string

const (
	Open        State = "open"        // a connection, or an answer
	Closed      State = "closed"      // a reset, or port unreachable
	Unreachable State = "unreachable" // another ICMP error
	Filtered    State = "filtered"    // nothing came back
)

// Found is the result of one probe.
type Found struct {
	Proto string // tcp, udp or echo
	Port  uint16
	State State
}

func (f Found) String() string {
	if f.Proto == "echo" {
		return fmt.Sprintf("echo %s", f.State)
	}
	return fmt.Sprintf("%s/%d %s", f.Proto, f.Port, f.State)
}

// Report is the result of a scan.
type Report struct {
	Target netip.Addr
	Found  []Found       // in the order TCP, UDP, echo
	Back   []Packet      // every IPv6 packet that came to the scanner meanwhile, housekeeping left out
	Took   time.Duration //
}

// In lists what was found in this state.
func (r Report) In(s State) []Found {
	return slices.DeleteFunc(slices.Clone(r.Found), func(f Found) bool { return f.State != s })
}

// Quiet reports whether nothing at all came back.
func (r Report) Quiet() bool { return len(r.In(Filtered)) == len(r.Found) && len(r.Back) == 0 }

func (r Report) String() string {
	lines := []string{"scan of " + r.Target.String()}
	for _, f := range r.Found {
		lines = append(lines, "  "+f.String())
	}
	for _, p := range r.Back {
		lines = append(lines, "  back: "+p.String())
	}
	return strings.Join(lines, "\n")
}

// Scan probes everything at once from the node. It returns when every probe has
// its answer, or the wait is over.
func (n *Node) Scan(ctx context.Context, s Scan) (Report, error) {
	if s.Wait == 0 {
		s.Wait = 500 * time.Millisecond
	}
	sniffer, err := n.Link.Capture()
	if err != nil {
		return Report{}, err
	}
	began := time.Now()
	r := Report{Target: s.Target}
	err = n.Do(func() (err error) {
		r.Found, err = s.probe(ctx)
		return err
	})
	r.Took = time.Since(began)
	if lost := sniffer.Close(); err == nil {
		err = lost
	}
	for _, p := range sniffer.Packets() {
		if !p.Out && !p.Housekeeping() {
			r.Back = append(r.Back, p)
		}
	}
	if err != nil {
		return r, fmt.Errorf("scan %s from %s: %w", s.Target, n.Name, err)
	}
	return r, nil
}
