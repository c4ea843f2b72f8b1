package guardtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ntpveil/guard"
	"ntpveil/rules"
)

// judge holds what the promises are judged by. Its state outlives a run of the
// daemon where the promise does.
type judge struct {
	broken  error
	trouble float64 // how often a stage of the worker fails

	wished   map[netip.Addr]bool          // every address this life ever wished
	made     map[netip.Addr]bool          // every address the worker ever made, in any life
	left     map[netip.Addr]bool          // left the wish of this life
	until    map[netip.Addr]time.Duration // of exposed elements wished in this life
	told     map[netip.Addr]bool          // reported to this life to stand
	lost     map[netip.Addr]bool          // reported to this life to stand, then not
	from     map[netip.Addr]time.Duration // when each address was asked from first
	reload   time.Duration                // when the configuration last changed
	applied  time.Duration                // when a preset last was
	answers  int                          // good samples since the last Fix
	gave     map[netip.Addr]bool          // who gave one to this life
	flushed  bool
	vanished bool
	moved    bool
	admins   []netip.Addr

	lastAsk map[netip.Prefix][]time.Duration // asks that left, by /64, in all lives
	Asks    int
	Fixes   int

	Keyings, Protected int
	Covered            int // asks that were covered by the truth at once
}

func (j *judge) fail(format string, args ...any) {
	if j.broken == nil {
		j.broken = fmt.Errorf(format, args...)
	}
}

func (j *judge) newLife() {
	j.wished, j.left, j.until = map[netip.Addr]bool{}, map[netip.Addr]bool{}, map[netip.Addr]time.Duration{}
	j.told, j.lost = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	if j.made == nil {
		j.made, j.from = map[netip.Addr]bool{}, map[netip.Addr]time.Duration{}
	}
	j.answers, j.gave = 0, map[netip.Addr]bool{}
}

// told notes what the core was told to stand, and what no longer does.
func (w *World) told(ev guard.Event) {
	seen, ok := ev.(guard.KernelSeen)
	if !ok {
		return
	}
	j := &w.judge
	now := map[netip.Addr]bool{}
	for _, a := range seen.Kernel.Addrs {
		now[a.Addr], j.told[a.Addr] = true, true
	}
	for a := range j.told {
		if !now[a] {
			j.lost[a] = true
		}
	}
}

// judgePlan judges what any plan must hold.
func (w *World) judgePlan(p guard.Plan) {
	j := &w.judge
	if p.Wake != 0 && p.Wake <= w.now.Mono {
		j.fail("wake %s is not later than now %s", p.Wake, w.now.Mono)
	}
	for _, n := range []struct {
		what      string
		have, max int
	}{
		{"addresses", len(p.Kernel.Addrs), w.conf.MaxAddrs}, {"asks", len(p.Asks), 40}, {"lookups", len(p.Lookups), 8},
		{"records", len(p.Records), 1024}, {"exposed", len(p.Kernel.Shield.Exposed), 4096}, {"hoods", len(p.Kernel.Shield.Hoods), 256},
		{"solicited", len(p.Kernel.Shield.Solicited), 64},
	} {
		if n.have > n.max {
			j.fail("%d %s in the plan, at most %d", n.have, n.what, n.max)
		}
	}
	w.judgeKeys(p)
}

// judgeKeys: a key that left the plan never returns.
func (w *World) judgeKeys(p guard.Plan) {
	now := map[guard.Key]bool{}
	for _, a := range p.Asks {
		now[a.Key] = true
		if !a.Granted() {
			w.judge.fail("ask %d has no pass", a.Key)
		}
	}
	for _, l := range p.Lookups {
		now[l.Key] = true
	}
	for _, k := range p.Keyings {
		now[k.Key] = true
		if !k.Granted() {
			w.judge.fail("key exchange %d has no pass", k.Key)
		}
	}
	for k := range now {
		if w.gone[k] {
			w.judge.fail("key %d returned", k)
		}
	}
	for k := range w.asks {
		if !now[k] {
			w.gone[k] = true
		}
	}
	for k := range w.lookups {
		if !now[k] {
			w.gone[k] = true
		}
	}
	for k := range w.keyings {
		if !now[k] {
			w.gone[k] = true
		}
	}
	for _, r := range p.Replies {
		if w.replies[r.Key] {
			w.judge.fail("order %d was replied to twice", r.Key)
		}
		w.replies[r.Key] = true
	}
}

// judgeStill: a Step at the same instant changes nothing.
func (w *World) judgeStill(p guard.Plan) {
	p.Replies = nil
	again := w.guard.Step(w.now, guard.Woke{})
	if again.String() != p.String() {
		w.judge.fail("a second step at the same instant changed the plan:\n%s", difference(p.String(), again.String()))
	}
}

// difference is the lines that only one of two texts has.
func difference(a, b string) string {
	var out []string
	one := func(sign, a, b string) {
		for _, l := range strings.Split(a, "\n") {
			if !slices.Contains(strings.Split(b, "\n"), l) {
				out = append(out, sign+" "+l)
			}
		}
	}
	one("-", a, b)
	one("+", b, a)
	return strings.Join(out, "\n")
}

// judgeWish judges the kernel's part of a plan against the one before.
func (w *World) judgeWish(k guard.Kernel) {
	j := &w.judge
	if !k.Act {
		return
	}
	here := map[netip.Addr]bool{}
	for _, a := range k.Addrs {
		here[a.Addr] = true
		if j.left[a.Addr] {
			j.fail("address %s is wished again", a.Addr)
		}
		if j.lost[a.Addr] {
			j.fail("address %s was lost and is still wished", a.Addr)
		}
		j.wished[a.Addr] = true
		if slices.Contains(j.admins, a.Addr) {
			j.fail("address %s of the admin is wished", a.Addr)
		}
	}
	for a := range j.wished {
		if !here[a] {
			j.left[a] = true
		}
	}
	w.judgeExposed(k)
}

// judgeExposed: guards are never shortened, and end only after the address was
// seen gone.
func (w *World) judgeExposed(k guard.Kernel) {
	j := &w.judge
	if k.Shield.Mode == rules.Off {
		return
	}
	now := map[netip.Addr]time.Duration{}
	for _, x := range k.Shield.Exposed {
		now[x.Addr] = x.Until
		if x.Until < j.until[x.Addr] {
			j.fail("the guard of %s is shortened from %s to %s", x.Addr, j.until[x.Addr], x.Until)
		}
		j.until[x.Addr] = x.Until
	}
	for a, until := range j.until {
		if _, here := now[a]; here || until <= w.now.Mono {
			continue
		}
		if x := w.kernel.addrs[a]; x != nil && x.made {
			j.fail("the guard of %s leaves the wish while the address stands", a)
		}
	}
	for _, a := range k.Addrs {
		if _, here := now[a.Addr]; !here {
			j.fail("address %s is wished without a guard", a.Addr)
		}
	}
}

// judgeAddress judges the making of an address: on disk, and guarded, before it
// exists.
func (w *World) judgeAddress(a guard.Addr) {
	if !slices.ContainsFunc(w.disk.Exposures, func(r guard.ExposureRecord) bool { return r.Addr == a.Addr }) {
		w.judge.fail("address %s is made and is not on disk", a.Addr)
	}
	if w.conf.Shield != rules.Off && w.kernel.exposed[a.Addr] < a.Until && !w.judge.flushed {
		w.judge.fail("address %s is made and is not guarded", a.Addr)
	}
}

// judgeAsk judges a query as it leaves, by the truth.
func (w *World) judgeAsk(a guard.Ask) {
	j := &w.judge
	j.Asks++
	stable := !w.throwAway(a.From.Addr())
	w.judgeCovered(fmt.Sprintf("ask %d from %s to %s", a.Key, a.From, a.To), a.From, a.By, rules.Solicited{Server: a.To, Our: a.From})
	w.judgeProtected(a)
	if w.conf.Rotate == "query" && !stable && slices.ContainsFunc(w.disk.Exposures, func(r guard.ExposureRecord) bool {
		return r.Addr == a.From.Addr() && r.Server != a.To.Addr()
	}) {
		j.fail("address %s was shown to two servers", a.From.Addr())
	}
	first, again := j.from[a.From.Addr()]
	switch {
	case !again:
		j.from[a.From.Addr()] = w.now.Mono
	case w.now.Mono > first+oneBurst && !stable && w.conf.Rotate == "query" && w.now.Mono > j.reload+time.Minute:
		j.fail("address %s was used again %s after its first exchange", a.From.Addr(), w.now.Mono-first)
	}
	w.judgeRate(a.To.Addr())
}

// judgeCovered: the rules of an exchange are in force when it leaves.
func (w *World) judgeCovered(what string, from netip.AddrPort, by time.Duration, tuple rules.Solicited) {
	j, t := &w.judge, w.kernel
	stable := !w.throwAway(from.Addr())
	covered := t.tuples[tuple] >= by
	if !stable {
		covered = covered && t.exposed[from.Addr()] >= by && t.addrs[from.Addr()] != nil
	}
	if covered {
		j.Covered++
	}
	chosen := stable && w.conf.IfImpossible == "ask-stable" && j.trouble > 0
	if !covered && !chosen && !j.flushed && !j.vanished && w.stands(from.Addr()) {
		j.fail("%s left before its rules were in force", what)
	}
	j.flushed, j.vanished = false, false
}

func (w *World) throwAway(a netip.Addr) bool { return a != stable4 && a != w.stable6() }

func (w *World) stands(a netip.Addr) bool {
	return a == stable4 || a == w.stable6() || w.kernel.addrs[a] != nil
}

// judgeRate: burst 4, one per 64 s, for each /64, across restarts.
func (w *World) judgeRate(a netip.Addr) {
	key, _ := a.Prefix(min(a.BitLen(), 64))
	times := append(w.judge.lastAsk[key], w.now.Boot)
	w.judge.lastAsk[key] = times
	for i := range times {
		n := len(times) - i
		span := times[len(times)-1] - times[i]
		// the ask may leave a while after its token was taken
		if float64(n) > 4+1+(span+20*time.Second).Seconds()/64 {
			w.judge.fail("%s was asked %d times in %s", a, n, span)
			return
		}
	}
}

func (j *judge) answered(ev guard.Answered, from netip.Addr) {
	if ev.Err == nil && ev.Kiss == "" {
		j.answers++
		j.gave[from] = true
	}
}

// othersAnswer reports whether somebody did whom the network did not name, who still
// has a place and can be reached.
func (w *World) othersAnswer() bool {
	return slices.ContainsFunc(w.guard.Status(w.now).Servers, func(s guard.ServerStatus) bool {
		a := netip.MustParseAddr(s.Address)
		return a != networks && w.judge.gave[a] && (a.Is4() || !w.net.noV6)
	})
}

// oneBurst is how far apart exchanges may be that are one exposure.
const oneBurst = 50 * time.Second

// judgeFix: from a majority of samples that were used once, towards the truth,
// and never by more than the limits.
func (w *World) judgeFix(f guard.Fix) {
	j := &w.judge
	j.Fixes++
	if w.conf.Observe {
		j.fail("fix %d while observing", f.Key)
	}
	if f.Step == 0 && f.Slew == 0 && !f.Sync { // moves nothing: the clock is not believed
		return
	}
	enough := w.conf.MinAgree
	if w.conf.DHCP == "join" && !w.othersAnswer() { // there is but one that the network names
		enough = 1
	}
	if j.answers < enough {
		j.fail("fix %d from %d samples", f.Key, j.answers)
	}
	j.answers = 0
	if f.Step != 0 && !j.moved && (f.Step-w.offset).Abs() > 200*time.Millisecond {
		j.fail("fix %d steps by %s, the clock is off by %s", f.Key, f.Step, w.offset)
	}
	if f.Sync && !j.moved && (w.offset-f.Step).Abs() > f.Error+200*time.Millisecond {
		j.fail("fix %d: the kernel is told %s, the clock is off by %s", f.Key, f.Error, w.offset-f.Step)
	}
	if f.Slew.Abs() > 500*time.Millisecond {
		j.fail("fix %d slews by %s", f.Key, f.Slew)
	}
	j.moved = false
}

// Tail is the end of the log.
func (w *World) Tail(n int) string {
	return strings.Join(w.Log[max(0, len(w.Log)-n):], "\n")
}
