package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// Set by the linker.
var (
	buildVersion = ""
	buildCommit  = ""
	buildDate    = "" // RFC 3339: no clock is ever set before it
)

func version() string {
	if buildVersion != "" {
		return buildVersion
	}
	return "devel"
}

func commit() string {
	if buildCommit != "" {
		return buildCommit
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// firstRelease is the build date of a build that was not told one.
var firstRelease = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func built() time.Time {
	if t, err := time.Parse(time.RFC3339, buildDate); err == nil {
		return t
	}
	return firstRelease
}

func versionCmd(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "Print version, commit and Go version",
		Example: "  ntpveil version --json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"version": version(), "commit": commit(), "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "ntpveil %s (commit %s, %s)\n", version(), commit(), runtime.Version())
			return err
		},
	}
	jsonFlag(cmd, o)
	return cmd
}
