package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"ntpveil/guard"
	"ntpveil/guard/control"
)

func statusCmd(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "status", Short: "Show clock, servers, shield, and what is weaker than it could be",
		Example: "  ntpveil status\n  ntpveil status --json | jq .synchronized",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.call(cmd.Context(), "read status", control.Request{Verb: "status"})
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

func serversCmd(o *options) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use: "servers", Short: "Show one line a server",
		Example: "  ntpveil servers -v     with what the columns mean",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.call(cmd.Context(), "read servers", control.Request{Verb: "status"})
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), s.Servers)
			}
			if verbose {
				if _, err := io.WriteString(cmd.OutOrStdout(), legend()); err != nil {
					return err
				}
			}
			return printServers(cmd.OutOrStdout(), s)
		},
	}
	jsonFlag(cmd, o)
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "explain the columns")
	return cmd
}

func exposuresCmd(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "exposures", Short: "Show who has seen which address",
		Example: "  ntpveil exposures\n  ntpveil exposures --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := o.call(cmd.Context(), "read exposures", control.Request{Verb: "exposures"})
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), s.Exposures)
			}
			return printExposures(cmd.OutOrStdout(), s)
		},
	}
	jsonFlag(cmd, o)
	return cmd
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printStatus prints one screen.
func printStatus(w io.Writer, s *guard.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	synced := "no"
	if s.Synchronized {
		synced = "yes"
	}
	fmt.Fprintf(t, "Synchronised:\t%s\n", loud(w, synced == "no", synced))
	fmt.Fprintf(t, "Clock:\t%s\n", clockText(s.Clock))
	fmt.Fprintf(t, "Last sync:\t%s\n", when(s.Clock.LastSync))
	fmt.Fprintf(t, "Next sync:\t%s\n", when(s.Clock.NextSync))
	shield := s.Shield.State
	if s.Shield.Reason != "" {
		shield += ": " + s.Shield.Reason
	}
	if s.Shield.Until != nil {
		shield += " until " + when(s.Shield.Until)
	}
	fmt.Fprintf(t, "Shield:\t%s (table %s, preset %s)\n", loud(w, s.Shield.State != "in force", shield), s.Shield.Table, presetText(s.Shield))
	if len(s.Shield.Lists) > 0 {
		fmt.Fprintf(t, "Blocked:\t%s\n", listsText(w, s.Shield.Lists))
	}
	fmt.Fprintf(t, "Exposures:\t%d, %d neighbourhoods closed\n", s.ExposureCount, len(s.Neighbourhoods))
	if err := t.Flush(); err != nil {
		return err
	}
	if len(s.Servers) > 0 {
		fmt.Fprintln(w)
		if err := printServers(w, s); err != nil {
			return err
		}
	}
	if len(s.Weaknesses) > 0 {
		fmt.Fprintln(w, "\nWeaker than it could be:")
	}
	for _, x := range s.Weaknesses {
		if _, err := fmt.Fprintf(w, "  %s: %s\n", x.Code, x.Text); err != nil {
			return err
		}
	}
	return nil
}

// presetText says what an admin did beyond the configuration.
func presetText(s guard.ShieldStatus) string {
	switch {
	case s.ConfirmBy != nil:
		return s.Preset + ", applied, rolled back at " + when(s.ConfirmBy) + " unless confirmed"
	case s.Applied:
		return s.Preset + ", applied, until the host reboots"
	}
	return s.Preset
}

// listsText counts what lists block.
func listsText(w io.Writer, lists []guard.ListStatus) string {
	n, inForce := 0, true
	for _, l := range lists {
		n, inForce = n+l.Prefixes, inForce && l.InForce
	}
	text := fmt.Sprintf("%d prefixes of %d lists", n, len(lists))
	if !inForce {
		text += ", not in force (yet)"
	}
	return loud(w, !inForce, text)
}

// clockText has no figures where nothing was measured: zeros would look perfect.
func clockText(c guard.ClockStatus) string {
	if c.Stratum == 0 {
		return c.Mode + ", not measured yet"
	}
	return fmt.Sprintf("%s, offset %+.6f s, root distance %.6f s, stratum %d, leap %s", c.Mode, c.Offset, c.RootDistance, c.Stratum, c.Leap)
}

// legend explains the columns.
func legend() string {
	var b strings.Builder
	for _, l := range guard.Letters {
		fmt.Fprintf(&b, "%s  %s\n", l.Letter, l.Text)
	}
	return b.String() + `Reach is the last eight polls in octal, as chronyc prints it: 377 is all answered.
A positive offset means that the server is ahead of this clock.

`
}

func printServers(w io.Writer, s *guard.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "S\tServer\tStratum\tPoll\tReach\tOffset\tDelay\tNTS\tVerdict\tWhy")
	for _, x := range s.Servers {
		measured := "-\t-"
		if x.Stratum > 0 {
			measured = fmt.Sprintf("%+.6f\t%.6f", x.Offset, x.Delay)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%o\t%s\t%s\t%s\t%s\n", x.Letter, x.Address, x.Stratum,
			time.Duration(x.Poll*float64(time.Second)).Round(time.Second), x.Reach, measured, map[bool]string{true: "yes", false: "no"}[x.NTS], x.Verdict, x.Reason)
	}
	return t.Flush()
}

func printExposures(w io.Writer, s *guard.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "Address\tKind\tInterface\tShown to\tAsked\tExists until\tGuarded until\tDropped")
	for _, x := range s.Exposures {
		server := x.Server
		if server == "" {
			server = "unknown"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", x.Address, x.Kind, x.Interface, server, when(x.AskedAt), when(x.ExistsUntil), when(x.GuardedUntil), x.Probes)
	}
	return t.Flush()
}

func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// loud prints in bold red what must not be overlooked, on a terminal that may
// have colours.
func loud(w io.Writer, bad bool, text string) string {
	f, ok := w.(*os.File)
	if !bad || !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return text
	}
	return "\x1b[1;31m" + strings.ToUpper(text[:1]) + text[1:] + "\x1b[0m"
}
