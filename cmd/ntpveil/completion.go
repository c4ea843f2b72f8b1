package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// helpCmd is cobra's, but for what it makes of a command that there is not: an
// error, as everywhere.
func helpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]...", Short: "Print the help of a command",
		Example: "  ntpveil help status\n  ntpveil help rules apply",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
			found, left, err := root.Find(args)
			if err != nil || len(left) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			for _, c := range found.Commands() {
				if c.IsAvailableCommand() {
					names = append(names, c.Name()+"\t"+c.Short)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			found, left, err := root.Find(args)
			if err != nil || len(left) > 0 {
				return usageError{fmt.Errorf("help: unknown command %q", strings.Join(args, " "))}
			}
			return found.Help()
		},
	}
}

// completionCmd prints the completions of the shells that there are on Linux.
func completionCmd() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print the completions for bash, zsh or fish",
		Long:      "The package has installed them already; this is for a program that was built by hand.",
		Example:   "  ntpveil completion bash > /etc/bash_completion.d/ntpveil",
		ValidArgs: shells,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			}
			return fmt.Errorf("no completions for %s", args[0])
		},
	}
}
