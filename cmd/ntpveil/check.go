package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ntpveil/guard"
	"ntpveil/guard/config"
)

func checkCmd(o *options) *cobra.Command {
	var effective bool
	cmd := &cobra.Command{
		Use: "check [FILE]", Short: "Check the configuration and touch nothing",
		Example: "  ntpveil check\n  ntpveil check /tmp/new.toml --print-effective",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, given := o.config, o.given
			if len(args) == 1 {
				path, given = args[0], true
			}
			c, err := config.Load(path, given)
			if err != nil {
				return usageError{err}
			}
			if effective {
				_, err = fmt.Fprint(cmd.OutOrStdout(), config.Effective(c))
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: the configuration is right\n", path)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&effective, "print-effective", false, "print every key with the value that it has")
	return cmd
}

// load reads the configuration that --config names.
func (o *options) load() (guard.Config, error) { return config.Load(o.config, o.given) }

// socket is where the daemon listens. A configuration that is wrong or cannot be
// read must not keep an admin from asking: then it is the default.
func (o *options) socket() string {
	if c, err := o.load(); err == nil {
		return c.Socket
	}
	return "/run/ntpveil/control.sock"
}
