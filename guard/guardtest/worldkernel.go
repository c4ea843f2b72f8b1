package guardtest

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// truth is the kernel of the world: what is in force at this instant. Elements
// and addresses run out by themselves.
type truth struct {
	mode    rules.Mode
	frame   rules.Shield // without elements
	devices []string
	exposed map[netip.Addr]time.Duration
	tuples  map[rules.Solicited]time.Duration // keyed with Until 0
	hoods   map[netip.Prefix]time.Duration
	addrs   map[netip.Addr]*liveAddr
	failed  bool // the last stage of the worker failed
}

type liveAddr struct {
	guard.Addr
	made    bool // by the daemon; else by the admin
	readyAt time.Duration
	clashes bool // DAD will find it taken
}

func (t *truth) expire(now time.Duration) {
	for a, until := range t.exposed {
		if until <= now {
			delete(t.exposed, a)
		}
	}
	for k, until := range t.tuples {
		if until <= now {
			delete(t.tuples, k)
		}
	}
	for p, until := range t.hoods {
		if until <= now {
			delete(t.hoods, p)
		}
	}
	for a, x := range t.addrs {
		if x.Until <= now || x.clashes && x.readyAt <= now {
			delete(t.addrs, a)
		}
	}
}

func (t *truth) flush() {
	t.mode, t.devices = rules.Off, nil
	clear(t.exposed)
	clear(t.tuples)
	clear(t.hoods)
}

func (t *truth) ours() []netip.Addr {
	var out []netip.Addr
	for a, x := range t.addrs {
		if x.made {
			out = append(out, a)
		}
	}
	return out
}

var errStage = errors.New("no buffer space available")

// doKernel gives the worker its wish. The worker takes the latest when it
// begins a pass; its stages take time and fail separately.
func (w *World) doKernel(k guard.Kernel) {
	w.judgeWish(k)
	if !w.wish.Equal(k) {
		w.wish = k
		w.pokeWorker()
	}
}

func (w *World) pokeWorker() {
	if w.working {
		w.again = true
		return
	}
	w.work()
}

func (w *World) work() {
	if w.working {
		return
	}
	w.working, w.again = true, false
	wish := w.wish
	culprit := w.culprit
	w.culprit = ""
	if culprit != "" {
		w.see(guard.KernelSeen{})
	}
	w.in(w.soon(2*time.Millisecond), w.life, func() { w.grow(wish, culprit) })
}

func (w *World) grow(wish guard.Kernel, culprit string) {
	t := &w.kernel
	if !wish.Act {
		w.endPass(guard.KernelSeen{Culprit: culprit})
		return
	}
	if t.failed = w.chance(w.judge.trouble); t.failed {
		w.endPass(guard.KernelSeen{Err: errStage, Culprit: culprit})
		return
	}
	s := wish.Shield
	if s.Mode != rules.Off {
		t.mode, t.devices, t.frame = s.Mode, slices.Clone(s.Devices), s
		t.frame.Exposed, t.frame.Solicited, t.frame.Hoods = nil, nil, nil
		for _, x := range s.Exposed {
			t.exposed[x.Addr] = max(t.exposed[x.Addr], x.Until)
		}
		for _, x := range s.Solicited {
			key := tupleOf(x)
			t.tuples[key] = max(t.tuples[key], x.Until)
		}
		for _, x := range s.Hoods {
			t.hoods[x.Prefix] = max(t.hoods[x.Prefix], x.Until)
		}
		t.expire(w.now.Mono)
	}
	w.in(w.soon(2*time.Millisecond), w.life, func() {
		if t.failed = w.chance(w.judge.trouble); t.failed {
			w.endPass(guard.KernelSeen{AddrErr: errStage, Culprit: culprit})
			return
		}
		t.set(w, wish.Addrs)
		w.in(w.soon(time.Millisecond), w.life, func() { w.shrink(wish, culprit) })
	})
}

func (w *World) shrink(wish guard.Kernel, culprit string) {
	t := &w.kernel
	if t.failed = w.chance(w.judge.trouble); t.failed {
		w.endPass(guard.KernelSeen{Err: errStage, Culprit: culprit})
		return
	}
	if wish.Shield.Mode == rules.Off {
		t.flush()
	}
	for key := range t.tuples {
		if !slices.ContainsFunc(wish.Shield.Solicited, func(x rules.Solicited) bool { return tupleOf(x) == key }) {
			delete(t.tuples, key)
		}
	}
	for p := range t.hoods {
		if !slices.ContainsFunc(wish.Shield.Hoods, func(x rules.Hood) bool { return x.Prefix == p }) {
			delete(t.hoods, p)
		}
	}
	w.endPass(guard.KernelSeen{Culprit: culprit})
}

// set makes the addresses those of the wish, and judges what it is asked for.
func (t *truth) set(w *World, want []guard.Addr) {
	for a, x := range t.addrs {
		if x.made && w.judge.wished[a] && !slices.ContainsFunc(want, func(y guard.Addr) bool { return y.Addr == a }) {
			delete(t.addrs, a)
		}
	}
	for _, x := range want {
		if w.judge.made[x.Addr] || t.addrs[x.Addr] != nil || x.Until <= w.now.Mono || !w.net.up || x.Link != w.net.link {
			continue // one that vanished is put back by nobody
		}
		w.judge.made[x.Addr] = true
		w.judgeAddress(x)
		live := &liveAddr{Addr: x, made: true, readyAt: w.now.Mono + time.Second + w.soon(time.Second), clashes: w.chance(w.net.clashes)}
		if !w.quiet && w.chance(0.02) {
			live.readyAt += time.Minute // a gateway that does not answer
		}
		t.addrs[x.Addr] = live
		w.in(live.readyAt-w.now.Mono+1, w.life, w.pokeWorker)
	}
}

// endPass reports what is, with what a pass came to.
func (w *World) endPass(ev guard.KernelSeen) {
	w.see(ev)
	w.working = false
	switch {
	case ev.Err != nil || ev.AddrErr != nil:
		w.in(time.Second+w.soon(time.Second), w.life, w.pokeWorker)
	case w.again:
		w.work()
	}
}

// see reports what is, after a delay in which more may happen.
func (w *World) see(ev guard.KernelSeen) {
	t := &w.kernel
	ev.Kernel.Shield = t.frame
	ev.Kernel.Shield.Mode, ev.Kernel.Shield.Devices = t.mode, slices.Clone(t.devices)
	for a, until := range t.exposed {
		ev.Kernel.Shield.Exposed = append(ev.Kernel.Shield.Exposed, rules.Exposed{Addr: a, Until: until})
	}
	for k, until := range t.tuples {
		k.Until = until
		ev.Kernel.Shield.Solicited = append(ev.Kernel.Shield.Solicited, k)
	}
	for p, until := range t.hoods {
		ev.Kernel.Shield.Hoods = append(ev.Kernel.Shield.Hoods, rules.Hood{Prefix: p, Until: until})
	}
	slices.SortFunc(ev.Kernel.Shield.Hoods, func(a, b rules.Hood) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	for a, x := range t.addrs {
		ev.Kernel.Addrs = append(ev.Kernel.Addrs, x.Addr)
		if x.readyAt <= w.now.Mono && !x.clashes {
			ev.Ready = append(ev.Ready, a)
		}
	}
	slices.SortFunc(ev.Kernel.Addrs, func(a, b guard.Addr) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(ev.Ready, netip.Addr.Compare)
	slices.SortFunc(ev.Kernel.Shield.Solicited, rules.Solicited.Compare)
	w.order++
	w.in(time.Microsecond, w.life, func() { w.step(ev) })
}
