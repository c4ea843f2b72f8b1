package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ntpveil/guard"
	"ntpveil/guard/control"
)

func rulesReportCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "report", Short: "Show what was dropped, or would have been where the shield observes",
		Long: "One line a server: what came from the neighbourhood that is closed because it was asked, and\n" +
			"what came to the throw-away addresses that it alone was shown. Then the networks, each a /24 or a\n" +
			"/48, from which a perimeter, a list or ntp.inbound kept most. Packets are counted by the kernel as\n" +
			"long as the neighbourhood is closed, as long as the address is guarded, and of others until 25\n" +
			"hours after the last one.",
		Example: "  ntpveil rules report", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.call(cmd.Context(), "read counters", control.Request{Verb: "exposures"})
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
	fmt.Fprintf(w, "Preset %s, shield %s: %d packets %s.\n\n", r.Preset, r.State, r.Packets, what)
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
