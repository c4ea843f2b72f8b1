package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
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
			done, err := c.confirm(save)
			if err != nil {
				return err
			}
			unlock() // nobody waits until this is read
			text := fmt.Sprintf("preset %s holds until the host reboots\n", done.Preset)
			switch {
			case save && c.alone:
				text = fmt.Sprintf("preset %s holds until the host reboots, and %s says so to the daemon, which alone reads it\n", done.Preset, done.File)
			case save:
				text = fmt.Sprintf("preset %s holds, and %s says so\n", done.Preset, done.File)
			}
			return o.say(cmd.OutOrStdout(), text, done)
		},
	}
	cmd.Flags().BoolVar(&save, "save", false, "write conf.d/90-preset.toml, so that it holds after a reboot as well")
	return cmd
}

// confirmed is a preset that holds, and the file that says so.
type confirmed struct {
	Preset string `json:"preset"`
	File   string `json:"file,omitempty"`
}

// confirm keeps what waits. To save it comes last: what was confirmed stays confirmed, and
// can be saved again. What the configuration would refuse is not even confirmed.
func (c *change) confirm(save bool) (done confirmed, err error) {
	var waits bool
	if c.alone {
		done.Preset, waits, err = c.keptHere()
	} else {
		done.Preset, waits, err = c.keptThere()
	}
	if err == nil && !waits && !save {
		err = errors.New("confirm preset: no preset waits to be confirmed")
	}
	if err == nil && save {
		_, err = config.LoadWith(c.o.config, c.o.given, done.Preset)
	}
	if err == nil && waits {
		err = c.keep()
	}
	if err != nil || !save {
		return done, err
	}
	if done.File, err = c.o.save(done.Preset); err != nil {
		err = fmt.Errorf("preset %s holds until the host reboots, but no longer: %w", done.Preset, err)
	}
	return done, err
}

// keptThere is the preset that the daemon has in force, and whether it waits.
func (c *change) keptThere() (preset string, waits bool, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, answerIn)
	defer cancel()
	s, err := c.o.call(ctx, "confirm preset", control.Request{Verb: "status"})
	if err != nil {
		return "", false, err
	}
	return s.Shield.Preset, s.Shield.ConfirmBy != nil, nil
}

// keptHere is the preset that was applied where no daemon runs, and whether it waits.
func (c *change) keptHere() (preset string, waits bool, err error) {
	const what = "confirm preset"
	t, err := c.trials.load()
	switch {
	case err != nil:
		return "", false, fmt.Errorf("%s: %w", what, err)
	case t == nil:
		return "", false, fmt.Errorf("%s: no preset waits to be confirmed", what)
	case t.Daemon:
		return "", false, fmt.Errorf("%s: %w, which put preset %s in force: start it, or let it be rolled back", what, control.ErrNotRunning, t.Preset)
	case t.Until != 0 && t.Until <= sysclock.Mono():
		return "", false, fmt.Errorf("%s: preset %s was not confirmed in time; `ntpveil rules revert` brings back what was before", what, t.Preset)
	}
	err = c.kernel(what, func(table *nft.Shield) error {
		now, err := table.Comment(sysclock.Mono())
		if err == nil && now != (rules.Shield{Preset: t.Preset}).Comment() {
			err = fmt.Errorf("preset %s is in force no longer: somebody changed or removed the table; `ntpveil rules apply %[1]s` puts it up again", t.Preset)
		}
		return err
	})
	return t.Preset, t.Until != 0, err
}

// keep confirms what waits.
func (c *change) keep() error {
	const what = "confirm preset"
	if !c.alone {
		if err := c.order(what, control.Request{Verb: "confirm"}); err != nil {
			return err
		}
		return c.trials.end()
	}
	t, err := c.trials.load()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case t == nil: // its watcher waits for nobody's lock for ever
		return fmt.Errorf("%s: it was rolled back meanwhile", what)
	}
	if err := c.session.Confirms(t.Session, t.At); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	t.Until = 0
	return c.trials.keep(t)
}

// save makes a preset permanent, and returns the file. The daemon is another user, whatever
// the admin's umask.
func (o *options) save(preset string) (string, error) {
	file := o.saved()
	dir := filepath.Dir(file)
	text := "# Written by `ntpveil rules confirm --save`.\n" + config.SavedText(preset)
	var err error
	if _, missing := os.Stat(dir); errors.Is(missing, fs.ErrNotExist) {
		err = cmp.Or(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755))
	}
	if err == nil {
		err = os.WriteFile(file+".new", []byte(text), 0o644)
	}
	if err == nil {
		err = cmp.Or(os.Chmod(file+".new", 0o644), os.Rename(file+".new", file))
	}
	if err != nil {
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
			unlock() // nobody waits until this is read
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
		return fmt.Errorf("%s: there is nothing to revert: no preset was applied since the host started, or it is reverted", what)
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
		if over, err := config.Over(c.o.config, c.o.given, p); err == nil {
			p = over
		}
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
			unlock() // nobody waits until this is read
			text := "table inet " + rules.TableName + " is removed\n"
			if !removed {
				text = "there is no table inet " + rules.TableName + "\n"
			}
			return o.say(cmd.OutOrStdout(), text, map[string]bool{"removed": removed})
		},
	}
}
