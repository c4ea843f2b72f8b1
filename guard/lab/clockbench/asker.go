package clockbench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ntpveil/guard/lab"
)

// soon is within what an answer has to come: 20 ppm are 1 µs then.
const soon = 100 * time.Millisecond

// asker is the outside script.
type asker struct {
	World
	truth    *trajectory
	rnd      *rand.Rand
	programs map[string]program
	errors   map[string][]Point
	tasks    sync.WaitGroup

	mu     sync.Mutex
	usable map[string]time.Duration
}

// begin starts all programs.
func (a *asker) begin(ctx context.Context, l *lab.Lab, r *relay, dir string) error {
	a.programs = map[string]program{"zero": zero{}}
	a.errors, a.usable = map[string][]Point{}, map[string]time.Duration{}
	ours, theirs := &ntpveil{daemon{dir: dir}}, &chronyd{daemon{dir: dir}}
	a.programs["ntpveil"], a.programs["chronyd"] = ours, theirs
	for i, to := range r.addrs {
		if i > 0 && a.Lie == 0 {
			break // one is enough for the controls
		}
		x := newRaw(l.Host, i, to)
		a.programs[fmt.Sprint("PLL ", i+1)] = pllReading{x}
		if i == 0 {
			a.programs["last"] = lastSample{x}
		}
		a.tasks.Add(1)
		go func() {
			defer a.tasks.Done()
			x.run(ctx)
		}()
	}
	return errors.Join(ours.run(ctx, l.Host, a.Binary, r.addrs, a.Polls), theirs.run(ctx, l.Host, r.addrs, a.Polls))
}

// live asks until the end: often until all are usable, and at random instants.
func (a *asker) live(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, began.Add(a.Length))
	defer cancel()
	watch, watching := errgroup.WithContext(ctx)
	for _, name := range []string{"ntpveil", "chronyd"} {
		watch.Go(func() error { return a.awaitUsable(watching, name, began) })
	}
	err := a.score(ctx, began)
	cancel()
	return errors.Join(err, watch.Wait())
}

// score asks everybody at random instants.
func (a *asker) score(ctx context.Context, began time.Time) error {
	for {
		pause := time.NewTimer(time.Duration(a.rnd.ExpFloat64() * float64(a.Every)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
		if err := a.askAll(ctx, began); err != nil {
			return err
		}
	}
}

func (a *asker) askAll(ctx context.Context, began time.Time) error {
	ctx = context.WithoutCancel(ctx) // no answer is left out
	for _, name := range slices.Sorted(maps.Keys(a.programs)) {
		r, err := patient(ctx, a.programs[name])
		if err != nil {
			return err
		}
		a.errors[name] = append(a.errors[name], Point{r.At.Sub(began), r.Offset - a.truth.at(r.At)})
	}
	return nil
}

// patient asks again where there was no answer, or one that took so long that
// nobody knows what time it is about: the machine was busy. What was answered is not
// looked at.
func patient(ctx context.Context, p program) (r Reading, err error) {
	for range 20 {
		if r, err = p.read(ctx); err == nil && r.Took < soon {
			break
		}
	}
	return r, err
}

// usablePoll is how often a program is asked that is not usable yet: less often
// as time goes by.
func usablePoll(since time.Duration) time.Duration {
	return max(100*time.Millisecond, since/50)
}

func (a *asker) awaitUsable(ctx context.Context, name string, began time.Time) error {
	for {
		r, err := patient(ctx, a.programs[name])
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case r.usable(r.Offset - a.truth.at(r.At)):
			a.mu.Lock()
			defer a.mu.Unlock()
			a.usable[name] = r.At.Sub(began)
			return nil
		}
		select {
		case <-time.After(usablePoll(time.Since(began))):
		case <-ctx.Done():
			return nil
		}
	}
}
