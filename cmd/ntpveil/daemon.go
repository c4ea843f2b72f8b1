package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"ntpveil/guard"
	"ntpveil/guard/config"
	"ntpveil/guard/control"
	"ntpveil/guard/daemon"
	"ntpveil/guard/ipaddr"
	"ntpveil/guard/journal"
	"ntpveil/guard/ledger"
	"ntpveil/guard/nft"
	"ntpveil/guard/nts"
	"ntpveil/guard/query"
	"ntpveil/guard/resolve"
	"ntpveil/guard/sysclock"
)

func daemonCmd(o *options) *cobra.Command {
	var observe bool
	cmd := &cobra.Command{
		Use: "daemon", Short: "Keep the clock right (the service)",
		Long:    "The service. It stays in the foreground, speaks to the service manager, reloads on SIGHUP\nand stops on SIGTERM, when it removes every address that it made.",
		Example: "  ntpveil daemon\n  ntpveil daemon --observe-clock     guard and measure, and never touch the clock",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			load := func() (guard.Config, error) {
				c, err := o.load()
				c.Observe = c.Observe || observe
				return c, err
			}
			signal.Ignore(syscall.SIGPIPE) // who read our standard error may be gone: that ends nothing
			choose := func(preset string) (guard.Config, error) { return config.LoadWith(o.config, o.given, preset) }
			return serve(cmd.Context(), load, choose, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&observe, "observe-clock", false, "measure and guard, but never touch the clock")
	return cmd
}

// serve wires the adapters to the daemon and runs it until ctx is done.
func serve(ctx context.Context, load func() (guard.Config, error), choose func(string) (guard.Config, error), stderr io.Writer) (err error) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // first: a reload that comes early would end us
	defer signal.Stop(hup)
	c, err := load()
	if err != nil {
		return err
	}
	clock := sysclock.New(sysclock.Kernel, built())
	clock.Files = sysclock.System
	log := journal.New(stderr)
	defer log.Close()
	parts := daemon.Parts{
		Asker: &query.Asker{Now: sysclock.Mono, Floor: built(), Protect: protect}, Keyer: &nts.Keyer{Now: sysclock.Mono}, Resolver: &resolve.Resolver{Now: sysclock.Mono},
		Clock: clock, Jumps: sysclock.Jumps{}, Journal: log, Now: sysclock.Now, Load: load, Choose: choose,
		Build: built(), Version: version(), Watchdog: journal.Watchdog(),
	}
	if c.Observe {
		parts.Clock = sysclock.Observer{Clock: clock}
	}
	if _, err := io.ReadFull(rand.Reader, parts.Seed[:]); err != nil {
		return fmt.Errorf("draw seed: %w", err)
	}
	closeAll, err := open(&parts, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	socket, err := control.Listen(c.Socket)
	if err != nil {
		return err
	}
	return tasks(ctx, daemon.New(parts, c), socket, hup, parts.Journal)
}

// protect has package nts protect what package query asks.
func protect(n guard.NTS) (query.Protection, error) { return nts.Protect(n) }

// open opens what has to be closed again. After an error nothing is left open.
func open(parts *daemon.Parts, c guard.Config) (closeAll func() error, err error) {
	var closers []io.Closer
	closing := func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closing())
		}
	}()
	claim, err := control.Alone() // before anything is touched
	if err != nil {
		return nil, err
	}
	closers = append(closers, claim)
	book, err := ledger.Open(c.Ledger)
	if err != nil {
		return nil, err
	}
	closers = append(closers, book)
	table, err := nft.Open(0)
	if err != nil {
		return nil, err
	}
	closers = append(closers, table)
	stack, err := ipaddr.Open(ipaddr.Options{})
	if err != nil {
		return nil, err
	}
	closers = append(closers, stack)
	parts.Ledger, parts.Shield, parts.Addresses, parts.Facts = book, table, stack, stack
	return closing, nil
}

// tasks runs the daemon, its socket and its reloads under one roof.
func tasks(ctx context.Context, d *daemon.Daemon, socket *control.Server, hup <-chan os.Signal, j daemon.Journal) error {
	group, run := errgroup.WithContext(ctx)
	run, end := context.WithCancel(run)
	group.Go(func() error {
		defer end()
		return d.Run(run)
	})
	group.Go(func() error { return socket.Serve(run, d) })
	group.Go(func() error {
		for {
			select {
			case <-run.Done():
				return nil
			case <-hup:
				if err := d.Reload(run); err != nil {
					j.Write(guard.Record{Kind: guard.KindNotice, Text: err.Error()})
				}
			}
		}
	})
	return group.Wait()
}
