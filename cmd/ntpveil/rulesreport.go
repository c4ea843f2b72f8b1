package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ntpveil/guard"
	"ntpveil/guard/control"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

func rulesReportCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "report", Short: "Show what was dropped, or would have been where the shield observes",
		Long: "One line a server: what came from the neighbourhood that is closed because it was asked, and\n" +
			"what came to the throw-away addresses that it alone was shown. Then the networks, each a /24 or a\n" +
			"/48, from which a perimeter, a list, ntp.inbound or what the kernel learnt kept most. Packets are\n" +
			"counted by the kernel as long as the neighbourhood is closed, as long as the address is guarded,\n" +
			"and of others until 25 hours after the last one. Where no daemon runs, root reads the table that\n" +
			"is there, as that of ntpveil-companion. What was counted while the shield observed stays in the sum.",
		Example: "  ntpveil rules report", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.call(cmd.Context(), "read counters", control.Request{Verb: "exposures"})
			if errors.Is(err, control.ErrNotRunning) {
				s, err = countedHere(err)
			}
			if err != nil {
				return err
			}
			r := droppedBy(s)
			if o.json {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return printDropped(cmd.OutOrStdout(), r)
		},
	}
}

// countedHere is what the table has counted that is there without a daemon, for those
// who may look.
func countedHere(without error) (*guard.Status, error) {
	table, err := nft.Open(0)
	if err != nil {
		return nil, without
	}
	defer table.Close()
	seen, err := table.Counted(sysclock.Mono())
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%w; only root reads a table without it", without)
	case err != nil:
		return nil, fmt.Errorf("read counters: %w", err)
	case seen.Mode == rules.Off:
		return nil, without
	}
	return statusOf(seen), nil
}

// statusOf is as much of a status as was counted.
func statusOf(seen rules.Shield) *guard.Status {
	s := &guard.Status{Shield: guard.ShieldStatus{State: "observing", Preset: seen.Preset}, OthersDropped: seen.Others.Dropped}
	if seen.Mode.Drops() {
		s.Shield.State = "in force"
	}
	for _, h := range seen.Hoods {
		one := guard.HoodStatus{Prefix: h.Prefix.String(), Dropped: h.Dropped}
		if h.Server.IsValid() {
			one.Server = h.Server.String()
		}
		s.Neighbourhoods = append(s.Neighbourhoods, one)
	}
	for _, e := range seen.Exposed {
		s.Exposures = append(s.Exposures, guard.ExposureStatus{Address: e.Addr.String(), GuardedUntil: &time.Time{}, Probes: e.Dropped})
	}
	for _, x := range seen.Others.Most {
		s.Others = append(s.Others, guard.OtherStatus{Prefix: x.Prefix.String(), Dropped: x.Dropped})
	}
	return s
}

// dropped is what the kernel counted.
type dropped struct {
	Preset   string          `json:"preset"`
	State    string          `json:"state"`    // of the shield
	Enforced bool            `json:"enforced"` // dropped; else it would have been
	Packets  uint64          `json:"packets"`
	Servers  []droppedServer `json:"servers"`

	Others     []guard.OtherStatus `json:"others"` // most first
	FromOthers uint64              `json:"packets_from_others"`
}

// droppedServer is what has to do with one server.
type droppedServer struct {
	Server    string   `json:"server"` // empty: it is not known any more
	Prefixes  []string `json:"neighbourhoods"`
	From      uint64   `json:"packets_from_neighbourhoods"`
	Addresses int      `json:"addresses"` // that it was shown and that are guarded
	Probed    int      `json:"addresses_probed"`
	To        uint64   `json:"packets_to_addresses"`
}

// droppedBy sorts what was counted by server, the most first.
func droppedBy(s *guard.Status) dropped {
	out := dropped{Preset: s.Shield.Preset, State: s.Shield.State, Enforced: s.Shield.State == "in force", Servers: []droppedServer{},
		Packets: s.OthersDropped, Others: append([]guard.OtherStatus{}, s.Others...), FromOthers: s.OthersDropped}
	of := func(server string) *droppedServer {
		i := slices.IndexFunc(out.Servers, func(x droppedServer) bool { return x.Server == server })
		if i < 0 {
			i = len(out.Servers)
			out.Servers = append(out.Servers, droppedServer{Server: server, Prefixes: []string{}})
		}
		return &out.Servers[i]
	}
	for _, h := range s.Neighbourhoods {
		x := of(h.Server)
		x.Prefixes = append(x.Prefixes, h.Prefix)
		x.From += h.Dropped
		out.Packets += h.Dropped
	}
	for _, e := range s.Exposures {
		if e.GuardedUntil == nil {
			continue
		}
		x := of(e.Server)
		x.Addresses++
		x.To += e.Probes
		out.Packets += e.Probes
		if e.Probes > 0 {
			x.Probed++
		}
	}
	slices.SortFunc(out.Servers, func(a, b droppedServer) int {
		return cmp.Or(-cmp.Compare(a.From+a.To, b.From+b.To), cmp.Compare(a.Server, b.Server))
	})
	return out
}

func printDropped(w io.Writer, r dropped) error {
	what := "were dropped"
	if !r.Enforced {
		what = "would have been dropped if the shield were in force"
	}
	fmt.Fprintf(w, "Preset %s, shield %s: %d packets %s.\n\n", cmp.Or(r.Preset, "unknown"), r.State, r.Packets, what)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "Server\tNeighbourhood\tFrom it\tAddresses shown\tProbed\tTo them")
	for _, x := range r.Servers {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\n", cmp.Or(x.Server, "unknown"), cmp.Or(strings.Join(x.Prefixes, " "), "-"), x.From, x.Addresses, x.Probed, x.To)
	}
	if err := t.Flush(); err != nil || r.FromOthers == 0 {
		return err
	}
	fmt.Fprintf(t, "\nFrom others\t%d\n", r.FromOthers)
	rest := r.FromOthers
	for _, x := range r.Others[:min(len(r.Others), 10)] {
		fmt.Fprintf(t, "%s\t%d\n", x.Prefix, x.Dropped)
		rest -= x.Dropped
	}
	if rest > 0 {
		fmt.Fprintf(t, "the rest\t%d\n", rest)
	}
	return t.Flush()
}
