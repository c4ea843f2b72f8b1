// Command ntpveil keeps the clock right and gives the time servers that it asks
// nothing worth having. Main only wires, and is the only place that exits.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"

	"ntpveil/guard/config"
	"ntpveil/guard/control"
)

// Exit statuses, as the man page has them.
const (
	exitFailed     = 1
	exitUsage      = 2
	exitNotRunning = 3
	exitDenied     = 4
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError is a command line that cannot be carried out.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run runs one command line and returns its exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCmd()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var inside exitError
	if errors.As(err, &inside) {
		return int(inside) // it has said why
	}
	report(stderr, err)
	return exitCode(err)
}

func report(w io.Writer, err error) {
	var bad config.Errors
	switch {
	case errors.As(err, &bad):
		for _, e := range bad {
			complain(w, e.Error())
		}
	case errors.Is(err, context.Canceled):
		complain(w, strings.ReplaceAll(err.Error(), context.Canceled.Error(), "interrupted"))
	default:
		complain(w, err.Error())
	}
}

// complain prints an error, of which every line says whose it is. What stands in it may
// be anybody's, and steers no terminal.
func complain(w io.Writer, text string) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fmt.Fprintf(w, "ntpveil: %s\n", printable(strings.TrimSuffix(line, "\n")))
	}
}

// printable writes what a terminal would obey as Go's escapes.
func printable(text string) string {
	var out strings.Builder
	for _, r := range text {
		if !unicode.IsPrint(r) {
			out.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			out.WriteRune(r)
		}
	}
	return out.String()
}

func exitCode(err error) int {
	var usage usageError
	var bad config.Errors
	switch {
	case errors.As(err, &usage), errors.As(err, &bad):
		return exitUsage
	case errors.Is(err, control.ErrNotRunning):
		return exitNotRunning
	case errors.Is(err, control.ErrNotPermitted), errors.Is(err, os.ErrPermission):
		return exitDenied
	}
	return exitFailed
}

// options are what every command has.
type options struct {
	config string
	given  bool // --config was written, so the file must be there
	json   bool
	trials string // directory
}

func rootCmd() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "ntpveil",
		Short: "Keep the clock right, and give time servers nothing worth having",
		Long: `ntpveil asks servers of the NTP pool for the time from IPv6 addresses that are
thrown away afterwards, behind nftables rules that are in force before the query
leaves. It takes the place of systemd-timesyncd.`,
		Example: "  ntpveil demo                 see what it does, without touching this host\n" +
			"  ntpveil status               how the clock, the servers and the shield are\n" +
			"  ntpveil check                whether the configuration is right",
		SilenceErrors: true, SilenceUsage: true,
		Version: version(),
		Args:    usage(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&o.config, "config", "/etc/ntpveil/ntpveil.toml", "configuration `file`")
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) { o.given = cmd.Flags().Changed("config") }
	root.SetFlagErrorFunc(wrong)
	root.SetVersionTemplate("ntpveil {{.Version}}\n")
	root.AddCommand(commands(o)...)
	root.SetHelpCommand(helpCmd(root))
	root.CompletionOptions.DisableDefaultCmd = true
	for _, c := range root.Commands() {
		c.Args = usage(c.Args)
	}
	return root
}

// commands is the one list of subcommands.
func commands(o *options) []*cobra.Command {
	return []*cobra.Command{
		daemonCmd(o), checkCmd(o), demoCmd(o), queryCmd(o),
		statusCmd(o), serversCmd(o), exposuresCmd(o), rulesCmd(o),
		syncCmd(o), waitsyncCmd(o), disarmCmd(o), armCmd(o), versionCmd(o), completionCmd(),
	}
}

// usage makes of a wrong number of arguments a wrong usage.
func usage(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return wrong(cmd, err)
		}
		return nil
	}
}

// wrong is a wrong usage of a command, with the remedy.
func wrong(cmd *cobra.Command, err error) error {
	what := "read command line"
	if cmd.HasParent() {
		_, what, _ = strings.Cut(cmd.CommandPath(), " ")
	}
	return usageError{fmt.Errorf("%s: %w; `%s --help` shows how", what, err, cmd.CommandPath())}
}

func jsonFlag(cmd *cobra.Command, o *options) {
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
}
