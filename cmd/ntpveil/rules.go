package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/user"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"ntpveil/guard/config"
	"ntpveil/guard/ipaddr"
	"ntpveil/rules"
)

func rulesCmd(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rules", Short: "Show presets and the nftables rules that they make, and change them safely",
		Long: "Presets are named sets of rule choices, see ntpveil-preset(5). Nothing but apply, revert and\n" +
			"remove touches the kernel; list, show and render ask nobody and need no privileges.",
		Example: "  ntpveil rules diff server                   what would change\n" +
			"  ntpveil rules apply server --confirm 60s    and back after a minute, unless\n" +
			"  ntpveil rules confirm                       comes from a new login",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []*cobra.Command{rulesListCmd(o), rulesShowCmd(o), rulesRenderCmd(o), rulesDiffCmd(o), rulesReportCmd(o),
		rulesApplyCmd(o), rulesConfirmCmd(o), rulesRevertCmd(o), rulesRemoveCmd(o)} {
		c.Args = usage(c.Args)
		jsonFlag(c, o)
		cmd.AddCommand(c)
	}
	cmd.AddCommand(rulesWatchCmd(o))
	cmd.PersistentFlags().StringVar(&o.trials, "trials", trialsDir, "where an apply is remembered that waits for its confirmation")
	_ = cmd.PersistentFlags().MarkHidden("trials")
	return cmd
}

func rulesListCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the presets there are",
		Example: "  ntpveil rules list --json", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := config.Presets(o.config)
			if err != nil {
				return usageError{err}
			}
			return printPresets(cmd.OutOrStdout(), all, o.json)
		},
	}
}

// presetLine is what rules list says of a preset.
type presetLine struct {
	Name   string `json:"name"`
	About  string `json:"about"`
	Origin string `json:"origin"`
}

func printPresets(w io.Writer, all rules.Presets, asJSON bool) error {
	lines := []presetLine{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		lines = append(lines, presetLine{name, all[name].About, all[name].Origin})
	}
	if asJSON {
		return printJSON(w, lines)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tFROM\tWHAT IT DOES")
	for _, l := range lines {
		fmt.Fprintf(t, "%s\t%s\t%s\n", l.Name, l.Origin, l.About)
	}
	return t.Flush()
}

func rulesShowCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "show PRESET", Short: "Print every key of a preset, with what it takes over from others",
		Example:           "  ntpveil rules show server > /etc/ntpveil/presets/mine.toml",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.presetNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.preset(args[0])
			if err != nil {
				return err
			}
			if o.json {
				return printPreset(cmd.OutOrStdout(), p)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "# %s: %s\n%s", p.Name, p.Origin, p.Text())
			return err
		},
	}
}

func printPreset(w io.Writer, p rules.Preset) error {
	keys := map[string]json.RawMessage{}
	for name, value := range p.Values() {
		keys[name] = json.RawMessage(value)
	}
	return printJSON(w, struct {
		presetLine
		Keys map[string]json.RawMessage `json:"keys"`
	}{presetLine{p.Name, p.About, p.Origin}, keys})
}

func rulesRenderCmd(o *options) *cobra.Command {
	var replace, renew bool
	cmd := &cobra.Command{
		Use: "render PRESET", Short: "Print the rules that a preset makes on this host, as nft reads them",
		Long: "With what [shield] of the configuration says in place of the preset's own keys, but without\n" +
			"shield.files, which the daemon loads.",
		Example:           "  ntpveil rules render router | less\n  ntpveil rules render companion --replace | nft -f -",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.presetNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.preset(args[0])
			if err != nil {
				return err
			}
			if replace && renew {
				return usageError{errors.New("render preset: --replace and --renew exclude one another")}
			}
			table, err := o.render(p, cmd.ErrOrStderr())
			off := errors.Is(err, errOff)
			if off {
				fmt.Fprintf(cmd.ErrOrStderr(), "ntpveil: %v: no rules\n", err)
			} else if err != nil {
				return err
			}
			text := table.String()
			switch {
			case off && (replace || renew):
				text = rules.Removing()
			case replace:
				text = table.Replacing()
			case renew:
				text = table.Renewing()
			}
			if o.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"preset": p.Name, "nft": text})
			}
			_, err = io.WriteString(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "have nft remove the table that is there, in the same transaction")
	cmd.Flags().BoolVar(&renew, "renew", false, "have nft renew the table of the same preset, and keep what it has learnt")
	return cmd
}

// render compiles a preset with the facts of this host.
func (o *options) render(p rules.Preset, stderr io.Writer) (rules.Table, error) {
	s, err := o.onThisHost(p, stderr)
	if err != nil {
		return rules.Table{}, err
	}
	return rules.Compile(s)
}

// errOff says why there are no rules, in the daemon's words.
var errOff = errors.New("the shield is switched off (shield.mode)")

// onThisHost is the rule set of a preset with what [shield] says over it and the facts
// of this host; errOff where it says that there is to be none.
func (o *options) onThisHost(p rules.Preset, stderr io.Writer) (rules.Shield, error) {
	p, err := config.Over(o.config, o.given, p)
	if err != nil {
		return rules.Shield{}, usageError{err}
	}
	if p.Mode == rules.Off {
		return rules.Shield{}, fmt.Errorf("render preset %s: %w", p.Name, errOff)
	}
	host, err := ipaddr.Look(ipaddr.Options{}, "")
	if err != nil {
		return rules.Shield{}, fmt.Errorf("render preset %s: %w", p.Name, err)
	}
	f := rules.Facts{Users: users(p.Users), Own: p.Choices.Own(host.OwnPrefixes())}
	if host.Link.Name != "" {
		f.Outside = []string{host.Link.Name}
	}
	s := p.Shield(f)
	if p.Choices.Hooks != rules.AtInput && len(s.Facts.Outside) == 0 {
		fmt.Fprintln(stderr, "ntpveil: render preset "+p.Name+": no device leads outside, nothing that is forwarded is guarded: write closed.outside")
	}
	s.Devices = host.Devices
	s.Owner = false // it would go with this process; and what is left behind nft does not change
	return s, nil
}

// users are those of some names that this host has, one a number.
func users(names []string) (out []rules.User) {
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue // a daemon that is not installed
		}
		id, err := strconv.ParseUint(u.Uid, 10, 32)
		known := slices.ContainsFunc(out, func(x rules.User) bool { return x.ID == uint32(id) })
		if err == nil && !known {
			out = append(out, rules.User{Name: name, ID: uint32(id)})
		}
	}
	slices.SortFunc(out, func(a, b rules.User) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (o *options) preset(name string) (rules.Preset, error) {
	all, err := config.Presets(o.config)
	if err != nil {
		return rules.Preset{}, usageError{err}
	}
	p, known := all[name]
	if !known {
		return p, usageError{fmt.Errorf("find preset %s: there are %v (ntpveil rules list)", name, slices.Sorted(maps.Keys(all)))}
	}
	return p, nil
}

// presetNames completes the name of a preset.
func (o *options) presetNames(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	all, err := config.Presets(o.config)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(all)), cobra.ShellCompDirectiveNoFileComp
}
