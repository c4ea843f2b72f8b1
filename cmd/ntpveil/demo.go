package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ntpveil/guard/lab"
)

// exitError ends with the status of the program that ran inside.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

const demoTime = 2 * time.Minute // a machine that is slower than this shows nothing

func demoCmd(*options) *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Replay the 2016 harvest in throw-away namespaces, without and with the guard",
		Long: "Builds a network in namespaces (a host, a router, DNS, time servers, a harvester among them, and\n" +
			"a scanner elsewhere), asks for the time without the guard and with it, and shows the difference.\n" +
			"It needs nothing installed, touches nothing of this host, and works without root wherever user\n" +
			"namespaces do. Every line with a mark was measured; exit status 1 if any did not come true.",
		Example: "  ntpveil demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inside, status, err := lab.Enter()
			switch {
			case errors.Is(err, lab.ErrForbidden):
				return fmt.Errorf("demo: %w (try as root)", err)
			case err != nil:
				return fmt.Errorf("demo: %w", err)
			case !inside && status != 0:
				return exitError(status)
			case !inside:
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTime)
			defer cancel()
			return tell(ctx, cmd.OutOrStdout())
		},
	}
}
