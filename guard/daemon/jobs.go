package daemon

import (
	"context"
	"sync"

	"ntpveil/guard"
)

// jobs begins each key once and cancels what left the plan.
type jobs struct {
	ctx     context.Context
	wg      sync.WaitGroup
	running map[guard.Key]context.CancelFunc // begun and still in the plan, whether it returned or not
}

func newJobs(ctx context.Context) *jobs {
	return &jobs{ctx: ctx, running: map[guard.Key]context.CancelFunc{}}
}

// match makes the running jobs those of the plan: keys maps each to its work.
func (j *jobs) match(keys map[guard.Key]func(context.Context)) {
	for key, cancel := range j.running {
		if _, wanted := keys[key]; !wanted {
			cancel()
			delete(j.running, key)
		}
	}
	for key, work := range keys {
		if _, begun := j.running[key]; begun {
			continue
		}
		ctx, cancel := context.WithCancel(j.ctx)
		j.running[key] = cancel
		j.wg.Add(1)
		go func() {
			defer j.wg.Done()
			work(ctx)
		}()
	}
}

// stop cancels everything and waits for it.
func (j *jobs) stop() {
	j.match(nil)
	j.wg.Wait()
}
