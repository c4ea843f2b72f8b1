package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

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
			if o.json && effective {
				return usageError{errors.New("check: --print-effective prints TOML, not JSON")}
			}
			path, given := o.config, o.given
			if len(args) == 1 {
				path, given = args[0], true
			}
			c, err := config.Load(path, given)
			switch {
			case o.json:
				return printCheck(cmd.OutOrStdout(), err)
			case err != nil:
				return usageError{err}
			case effective:
				_, err = fmt.Fprint(cmd.OutOrStdout(), config.Effective(c))
			default:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: the configuration is right\n", read(path))
			}
			return err
		},
	}
	jsonFlag(cmd, o)
	cmd.Flags().BoolVar(&effective, "print-effective", false, "print every key with the value that it has")
	return cmd
}

// read says what was read of a path that need not exist.
func read(path string) string {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return path + " does not exist, so the defaults hold"
	}
	return path
}

// configError is one error of the configuration as JSON. Line and column are 0
// where it is of the file as a whole.
type configError struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
}

func printCheck(w io.Writer, err error) error {
	var bad config.Errors
	errors.As(err, &bad)
	all := []configError{}
	for _, e := range bad {
		all = append(all, configError(e))
	}
	if err := printJSON(w, map[string]any{"valid": len(all) == 0, "errors": all}); err != nil {
		return err
	}
	if len(all) > 0 {
		return exitError(exitUsage)
	}
	return nil
}

// load reads the configuration that --config names.
func (o *options) load() (guard.Config, error) { return config.Load(o.config, o.given) }
