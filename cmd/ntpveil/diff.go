package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"ntpveil/guard/config"
	"ntpveil/guard/control"
	"ntpveil/rules"
)

func rulesDiffCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "diff PRESET", Short: "Print what apply would change, as nft text; exit status 1 where it is anything",
		Long: "Compared is what is in force with what the preset makes on this host; elements that run out are\n" +
			"left out. Where no daemon runs nft itself lists both, the second in a namespace that is thrown away.",
		Example: "  ntpveil rules diff lockdown", Args: cobra.ExactArgs(1),
		ValidArgsFunction: o.presetNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.preset(args[0])
			if err != nil {
				return err
			}
			d, err := o.diff(cmd.Context(), p, cmd.ErrOrStderr())
			if err != nil {
				return fmt.Errorf("compare with preset %s: %w", p.Name, err)
			}
			text := difference(strings.SplitAfter(d.Before, "\n"), strings.SplitAfter(d.After, "\n"))
			if o.json {
				err = printJSON(cmd.OutOrStdout(), struct {
					Preset  string `json:"preset"`
					Differs bool   `json:"differs"`
					Diff    string `json:"diff"`
				}{p.Name, text != "", text})
			} else {
				_, err = io.WriteString(cmd.OutOrStdout(), text)
			}
			if err == nil && text != "" {
				return exitError(exitFailed)
			}
			return err
		},
	}
}

// diff asks the daemon for both texts, and where none runs the kernel and nft.
func (o *options) diff(ctx context.Context, p rules.Preset, stderr io.Writer) (control.Diff, error) {
	socket, err := config.Socket(o.config, o.given)
	if err != nil {
		return control.Diff{}, err
	}
	ask := control.Request{Verb: "diff", Preset: p.Name}
	asking, cancel := context.WithTimeout(ctx, longest(ask))
	defer cancel()
	r, err := control.Ask(asking, socket, ask)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return control.Diff{}, errSilent
	case err == nil && r.Diff != nil:
		return *r.Diff, nil
	case err == nil:
		return control.Diff{}, errors.New("the daemon does not know how: it is of another version")
	case !errors.Is(err, control.ErrNotRunning):
		return control.Diff{}, err
	}
	table, err := o.render(p, stderr)
	if err != nil {
		return control.Diff{}, err
	}
	before, err := nftText(ctx, "", "nft -s list tables inet | grep -qx 'table inet ntpveil' || exit 0; nft -s list table inet ntpveil", false)
	if err != nil {
		return control.Diff{}, err
	}
	text, devices := withoutDevices(table.String())
	after, err := nftText(ctx, text, "nft -f - && nft -s list table inet ntpveil", true)
	if err != nil {
		return control.Diff{}, err
	}
	return control.Diff{Before: lasting(before), After: lasting(withDevices(after, devices))}, nil
}

// nftText is what nft says, here or in a network namespace that ends with it.
func nftText(ctx context.Context, stdin, script string, apart bool) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if apart {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	err := cmd.Run()
	switch text := strings.TrimSpace(errs.String()); {
	case err != nil && (errors.Is(err, syscall.EPERM) || strings.Contains(text, "Operation not permitted")):
		return "", fmt.Errorf("%w: only root may where no daemon runs", control.ErrNotPermitted)
	case err != nil:
		return "", fmt.Errorf("ask nft: %w: %s", err, text)
	}
	return out.String(), nil
}

// withoutDevices takes the hooks of devices out, which the namespace does not have.
func withoutDevices(text string) (rest string, hooks map[string]string) {
	hooks = map[string]string{}
	var out []string
	chain := ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "\tchain ") {
			chain = line
		}
		if strings.Contains(line, " hook ingress device ") {
			hooks[chain] = line
			continue
		}
		out = append(out, line)
	}
	return strings.Join(out, ""), hooks
}

// withDevices puts them back.
func withDevices(text string, hooks map[string]string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(line + hooks[line])
	}
	return out.String()
}

// lasting leaves out what runs out: the elements of sets with timeouts.
func lasting(text string) string {
	var out strings.Builder
	timed, inside := false, false
	for line := range strings.Lines(text) {
		switch word := strings.TrimSpace(line); {
		case strings.HasPrefix(word, "set "):
			timed = false
		case strings.HasPrefix(word, "flags "):
			timed = slices.Contains(strings.Split(strings.TrimPrefix(word, "flags "), ","), "timeout")
		case strings.HasPrefix(word, "elements = {"):
			inside = timed
		}
		if !inside {
			out.WriteString(line)
		}
		if strings.HasSuffix(strings.TrimSpace(line), "}") {
			inside = false
		}
	}
	return out.String()
}

// around is how many lines are printed around a difference.
const around = 3

// difference is what changes from one text to another, line by line, with the lines
// around it; empty: nothing does.
func difference(before, after []string) string {
	all := edits(before, after)
	near := make([]bool, len(all))
	for i, e := range all {
		if e.sign == ' ' {
			continue
		}
		for j := max(0, i-around); j <= min(len(all)-1, i+around); j++ {
			near[j] = true
		}
	}
	var out strings.Builder
	for i, e := range all {
		switch {
		case near[i]:
			fmt.Fprintf(&out, "%c%s", e.sign, e.line)
		case i > 0 && near[i-1]:
			out.WriteString("…\n")
		}
	}
	return out.String()
}

type edit struct {
	sign rune // ' ', '-' or '+'
	line string
}

// edits goes from one text to another by way of their longest common subsequence.
func edits(a, b []string) (out []edit) {
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, edit{' ', a[i]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			out = append(out, edit{'-', a[i]})
			i++
		default:
			out = append(out, edit{'+', b[j]})
			j++
		}
	}
	return out
}
