package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ntpveil/guard/config"
	"ntpveil/guard/control"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

func rulesConfirmCmd(o *options) *cobra.Command {
	var save bool
	cmd := &cobra.Command{
		Use: "confirm", Short: "Keep what was applied; from a login that began after it",
		Long: "A session that is open lives on whatever is applied, so that the confirmation has to come from\n" +
			"one that began after it: log in anew. --save makes it permanent, in conf.d/90-preset.toml.",
		Example: "  ntpveil rules confirm\n  ntpveil rules confirm --save", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, unlock, err := o.begin(cmd, "confirm preset")
			if err != nil {
				return err
			}
			defer unlock()
			preset, err := c.confirm()
			if err != nil {
				return err
			}
			text := fmt.Sprintf("preset %s holds until the host reboots\n", preset)
			var file string
			if save {
				if file, err = o.save(preset); err != nil {
					return err
				}
				text = fmt.Sprintf("preset %s holds, and %s says so\n", preset, file)
			}
			return o.say(cmd.OutOrStdout(), text, struct {
				Preset string `json:"preset"`
				File   string `json:"file,omitempty"`
			}{preset, file})
		},
	}
	cmd.Flags().BoolVar(&save, "save", false, "write conf.d/90-preset.toml, so that it holds after a reboot as well")
	return cmd
}

// confirm returns the name of the preset that holds now.
func (c *change) confirm() (string, error) {
	const what = "confirm preset"
	if !c.alone {
		if err := c.order(what, control.Request{Verb: "confirm"}); err != nil {
			return "", err
		}
		s, err := c.o.call(c.ctx, what, control.Request{Verb: "status"})
		if err != nil {
			return "", err
		}
		return s.Shield.Preset, c.trials.end()
	}
	t, err := c.trials.load()
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", what, err)
	case t == nil || t.Until == 0:
		return "", fmt.Errorf("%s: no preset waits to be confirmed", what)
	case t.Daemon:
		return "", fmt.Errorf("%s: %w, which put preset %s in force: start it, or let it be rolled back", what, control.ErrNotRunning, t.Preset)
	case t.Until <= sysclock.Mono():
		return "", fmt.Errorf("%s: preset %s was not confirmed in time; `ntpveil rules revert` brings back what was before", what, t.Preset)
	}
	if err := c.session.Confirms(t.Session, t.At); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	t.Until = 0
	return t.Preset, c.trials.keep(t)
}

// save makes a preset permanent, and returns the file.
func (o *options) save(preset string) (string, error) {
	file := o.saved()
	if _, err := config.LoadWith(o.config, o.given, preset); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", fmt.Errorf("save preset: %w", err)
	}
	text := "# Written by `ntpveil rules confirm --save`.\n" + config.SavedText(preset)
	if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("save preset: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return "", fmt.Errorf("save preset: %w", err)
	}
	c, err := o.load()
	if err != nil {
		return "", err
	}
	if c.Preset != preset {
		return "", fmt.Errorf("save preset: %s is written, but a later file beside it chooses %s", file, c.Preset)
	}
	return file, nil
}

// saved is the file that makes a preset permanent.
func (o *options) saved() string {
	return filepath.Join(filepath.Dir(o.config), "conf.d", "90-preset.toml")
}

func rulesRevertCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "revert", Short: "Bring back what was in force before the last apply",
		Example: "  ntpveil rules revert", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, unlock, err := o.begin(cmd, "revert preset")
			if err != nil {
				return err
			}
			defer unlock()
			if err := c.revert(); err != nil {
				return err
			}
			text := "what was in force before is back\n"
			if _, err := os.Stat(o.saved()); err == nil {
				text += o.saved() + " stays, and says what holds after a reboot\n"
			}
			return o.say(cmd.OutOrStdout(), text, map[string]bool{"reverted": true})
		},
	}
}

func (c *change) revert() error {
	const what = "revert preset"
	if !c.alone {
		if err := c.order(what, control.Request{Verb: "revert"}); err != nil {
			return err
		}
		return c.trials.end()
	}
	t, err := c.trials.load()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if t == nil {
		return fmt.Errorf("%s: there is nothing to revert: no preset was applied since the host started", what)
	}
	if why := c.whyCut(t.Before); why != "" {
		return fmt.Errorf("%s: %s", what, why)
	}
	err = c.kernel(what, func(table *nft.Shield) error { return table.Put(sysclock.Mono(), t.Before) })
	if err != nil {
		return err
	}
	return c.trials.end()
}

// whyCut is why a table that was put up for one of the presets that there are would
// cut this session.
func (c *change) whyCut(before nft.Copy) string {
	all, err := config.Presets(c.o.config)
	if err != nil {
		return ""
	}
	for name, p := range all {
		s := p.Shield(rules.Facts{})
		if s.Comment() == before.Comment() {
			return c.session.WhyCut(name, s)
		}
	}
	return ""
}

func rulesRemoveCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "remove", Short: "Remove the table that a preset made, or that a daemon left",
		Long:    "A daemon that runs keeps its table: `ntpveil disarm` switches its drops off for a time.",
		Example: "  ntpveil rules remove", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			const what = "remove rules"
			c, unlock, err := o.begin(cmd, what)
			if err != nil {
				return err
			}
			defer unlock()
			if !c.alone {
				return errors.New(what + ": the daemon runs and keeps them in force: `ntpveil disarm --for 1h` switches the drops off for a time")
			}
			var removed bool
			err = c.kernel(what, func(table *nft.Shield) (err error) {
				removed, err = table.Remove(sysclock.Mono())
				return err
			})
			if err == nil {
				err = c.trials.end()
			}
			if err != nil {
				return err
			}
			text := "table inet " + rules.TableName + " is removed\n"
			if !removed {
				text = "there is no table inet " + rules.TableName + "\n"
			}
			return o.say(cmd.OutOrStdout(), text, map[string]bool{"removed": removed})
		},
	}
}
