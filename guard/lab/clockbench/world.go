package clockbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// World says what is run for how long.
type World struct {
	Profile
	Polls
	Seed   uint64
	Length time.Duration
	Warm   time.Duration // from when on errors count as those of programs that run
	Every  time.Duration // the mean time between two questions
	Binary string        // ntpveil
}

// Point is one error, some time after the start.
type Point struct {
	Since time.Duration
	Error float64 // s: reported minus true
}

// Outcome is what came of a world.
type Outcome struct {
	World
	Errors    map[string][]Point         // by program
	Usable    map[string]time.Duration   // since the start; absent: never
	Exchanges map[string][]time.Duration // by program: when queries reached the servers
}

// run builds a world, lets it live and takes it down.
func (w World) run(ctx context.Context) (out Outcome, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("run %s with %s, seed %d: %w", w.Profile.Name, w.Polls.Name, w.Seed, err)
		}
	}()
	l, err := lab.New(ctx, lab.Options{})
	if err != nil {
		return out, err
	}
	defer l.Close()
	dir, err := os.MkdirTemp("", "ntpveil-bench-") // short enough for a socket
	if err != nil {
		return out, err
	}
	defer os.RemoveAll(dir)
	rnd := rand.New(rand.NewPCG(w.Seed, 0))
	r := &relay{Profile: w.Profile, seed: w.Seed, busy: w.Busy.times(rnd, w.Length)}
	r.truth = newTrajectory(rnd, w.Still, time.Now(), w.Length)
	if err := errors.Join(settle(l), r.open(l)); err != nil {
		return out, err
	}
	defer r.close()
	a := &asker{World: w, truth: r.truth, rnd: rnd}
	defer a.tasks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.begin(ctx, l, r, dir); err != nil {
		return out, err
	}
	if err := a.live(ctx); err != nil {
		return out, err
	}
	return Outcome{World: w, Errors: a.errors, Usable: a.usable, Exchanges: r.exchanges()}, nil
}

// settle makes host and router know each other for good, as a router that is
// busy does. The kernel's table of neighbours is one for all worlds together, and where
// there are many it forgets within a minute: each query would wait for a solicitation, on one
// of its ways only.
func settle(l *lab.Lab) error {
	router := netip.MustParseAddr("fe80::1")
	return errors.Join(known(l.Host.Link, router), known(l.Host.Link.Peer, l.Host.Addr6))
}

func known(on *lab.Link, addr netip.Addr) error {
	err := on.Node.Netlink().NeighSet(&netlink.Neigh{LinkIndex: on.Index, Family: unix.AF_INET6, State: unix.NUD_PERMANENT,
		IP: addr.AsSlice(), HardwareAddr: on.Peer.MAC})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", addr, err)
	}
	return nil
}
