package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ntpveil/guard"
	"ntpveil/guard/config"
	"ntpveil/guard/control"
)

// call asks the daemon; the error says what was asked. A configuration that is
// wrong must not keep an admin from asking.
func (o *options) call(ctx context.Context, what string, r control.Request) (*guard.Status, error) {
	socket, err := config.Socket(o.config, o.given)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, longest(r))
	defer cancel()
	s, err := control.Call(ctx, socket, r)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%s: %w", what, errSilent)
	case errors.Is(err, control.ErrNotRunning) && r.Verb == "disarm":
		return nil, fmt.Errorf("%s: %w; `ntpveil rules remove` removes what it left", what, err)
	case errors.Is(err, control.ErrNotRunning):
		return nil, fmt.Errorf("%s: %w; `systemctl start ntpveil` starts it", what, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case s == nil:
		s = &guard.Status{}
	}
	return s, nil
}

// errSilent is a daemon that is stopped or stuck: the socket takes requests all the same.
var errSilent = errors.New("the daemon does not answer; `systemctl restart ntpveil` starts it anew")

// longest is how long the answer to a request may take. A look at the kernel's counters
// takes seconds where there are very many.
func longest(r control.Request) time.Duration {
	switch r.Verb {
	case "status", "exposures":
		return lookMost
	case "waitsync":
		if d, err := time.ParseDuration(r.For); err == nil && d > 0 {
			return d + answerIn
		}
		return control.WaitMost + answerIn
	}
	return control.OrderMost + answerIn
}

func syncCmd(o *options) *cobra.Command {
	var step bool
	cmd := &cobra.Command{
		Use: "sync", Short: "Ask the servers now, within the limits that the daemon keeps towards them",
		Example: "  ntpveil sync\n  ntpveil sync --step     permit a correction that clock.max_change refused",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			verb := "sync"
			if step {
				verb = "step"
			}
			_, err := o.call(cmd.Context(), "sync", control.Request{Verb: verb})
			return err
		},
	}
	cmd.Flags().BoolVar(&step, "step", false, "clear a refused large correction (root)")
	return cmd
}

func waitsyncCmd(o *options) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "waitsync", Short: "Return when the clock is synchronised",
		Example: "  ntpveil waitsync --timeout 3m && start-what-needs-the-time",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout < 0 || timeout > control.WaitMost {
				return usageError{fmt.Errorf("waitsync: --timeout takes a time of up to 24h")}
			}
			_, err := o.call(cmd.Context(), "wait for the clock", control.Request{Verb: "waitsync", For: timeout.String()})
			return err
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this `time` (0: after a day)")
	return cmd
}

func disarmCmd(o *options) *cobra.Command {
	var length time.Duration
	cmd := &cobra.Command{
		Use: "disarm --for TIME", Short: "Switch the shield's drops off for a time",
		Long: "Nothing is dropped for a time; everything is still counted, and status says so.\n" +
			"The drops come back by themselves, or with `ntpveil arm`.",
		Example: "  ntpveil disarm --for 1h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if length < time.Second || length > 24*time.Hour {
				return usageError{fmt.Errorf("disarm: --for takes a time from 1s to 24h")}
			}
			if _, err := o.call(cmd.Context(), "disarm shield", control.Request{Verb: "disarm", For: length.String()}); err != nil {
				return err
			}
			if o.json {
				s, err := o.call(cmd.Context(), "read status", control.Request{Verb: "status"})
				if err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), s.Shield)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "the shield drops nothing for %s; `ntpveil arm` ends it sooner\n", length)
			return err
		},
	}
	jsonFlag(cmd, o)
	cmd.Flags().DurationVar(&length, "for", 0, "for this `time`, up to 24h")
	return cmd
}

func armCmd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "arm", Short: "Switch the shield's drops on again",
		Example: "  ntpveil arm",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := o.call(cmd.Context(), "arm shield", control.Request{Verb: "arm"})
			return err
		},
	}
}
