package guardtest

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
)

// AskerBench is an implementation of daemon.Asker and the world around it.
type AskerBench struct {
	Asker   daemon.Asker
	Now     func() time.Duration
	From    func() netip.AddrPort // an address and a port that are free
	Honest  netip.AddrPort        // a server that answers
	Kissing netip.AddrPort        // one that answers with RATE
	Silent  netip.AddrPort        // one that does not answer
}

// ConformAsker is what every implementation of daemon.Asker must do.
func ConformAsker(t *testing.T, open func(t *testing.T) AskerBench) {
	for name, test := range map[string]func(*askerBench){
		"answers":                      (*askerBench).answers,
		"hands a kiss on":              (*askerBench).kisses,
		"gives up at the deadline":     (*askerBench).gives,
		"ends when it is cancelled":    (*askerBench).cancelled,
		"keeps its port until then":    (*askerBench).keeps,
		"comes too late to ask at all": (*askerBench).late,
	} {
		t.Run(name, func(t *testing.T) { test(&askerBench{open(t), t}) })
	}
}

type askerBench struct {
	AskerBench
	t *testing.T
}

// asked is an Ask that runs.
type asked struct {
	answers  chan guard.Answered
	cancel   func()
	returned chan struct{}
}

func (b *askerBench) begin(from, to netip.AddrPort, within time.Duration) asked {
	ctx, cancel := context.WithCancel(b.t.Context())
	x := asked{make(chan guard.Answered, 9), cancel, make(chan struct{})}
	go func() {
		defer close(x.returned)
		b.Asker.Ask(ctx, guard.Ask{Key: 7, From: from, To: to, By: b.Now() + within}, func(ev guard.Answered) { x.answers <- ev })
	}()
	return x
}

// finish cancels an exchange and sees that it was answered once.
func (b *askerBench) finish(x asked) {
	b.t.Helper()
	x.cancel()
	<-x.returned
	if len(x.answers) != 0 {
		b.t.Errorf("answered again: %+v", <-x.answers)
	}
}

func (b *askerBench) answers() {
	before := b.Now()
	x := b.begin(b.From(), b.Honest, 5*time.Second)
	ev := <-x.answers
	if ev.Err != nil || ev.Kiss != "" || ev.Key != 7 || ev.Sample.Server != b.Honest || ev.Sample.At < before || ev.Sample.At > b.Now() || ev.Sample.Delay < 0 {
		b.t.Errorf("%+v", ev)
	}
	b.finish(x)
}

func (b *askerBench) kisses() {
	x := b.begin(b.From(), b.Kissing, 5*time.Second)
	if ev := <-x.answers; ev.Err != nil || ev.Kiss != "RATE" || ev.Key != 7 {
		b.t.Errorf("%+v", ev)
	}
	b.finish(x)
}

func (b *askerBench) gives() {
	by := b.Now() + 50*time.Millisecond
	x := b.begin(b.From(), b.Silent, 50*time.Millisecond)
	if ev := <-x.answers; ev.Err == nil || ev.Kiss != "" || ev.Key != 7 || b.Now() < by {
		b.t.Errorf("%+v", ev)
	}
	b.finish(x)
}

func (b *askerBench) cancelled() {
	x := b.begin(b.From(), b.Silent, time.Hour)
	x.cancel()
	<-x.returned
	if ev := <-x.answers; ev.Err == nil || ev.Key != 7 {
		b.t.Errorf("%+v", ev)
	}
	b.finish(x)
}

func (b *askerBench) keeps() {
	from := b.From()
	first := b.begin(from, b.Honest, 5*time.Second)
	<-first.answers
	second := b.begin(from, b.Honest, 5*time.Second)
	<-second.returned // it has no socket to keep
	if ev := <-second.answers; !errors.Is(ev.Err, syscall.EADDRINUSE) || ev.Key != 7 {
		b.t.Errorf("the port of an exchange that lingers: %+v", ev)
	}
	b.finish(first)
	third := b.begin(from, b.Honest, 5*time.Second)
	if ev := <-third.answers; ev.Err != nil {
		b.t.Errorf("the port of one that is over: %+v", ev)
	}
	b.finish(third)
	b.finish(second)
}

func (b *askerBench) late() {
	x := b.begin(b.From(), b.Silent, -time.Second)
	if ev := <-x.answers; ev.Err == nil {
		b.t.Errorf("%+v", ev)
	}
	b.finish(x)
}
