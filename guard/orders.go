package guard

import (
	"fmt"
	"time"
)

const stopWithin = 4 * time.Second // service managers are told 5

// orders are what admins want, and how far it has come.
type orders struct {
	syncs    []Key // replied to when the next sync was judged
	replies  []Reply
	disarmed time.Duration // until then
	stop     Key
	stopBy   time.Duration
	done     bool
}

func (o *orders) stopping() bool { return o.stop != 0 }

func (g *Guard) order(ev Ordered) {
	switch ev.Verb {
	case "sync", "step":
		g.orderSync(ev)
	case "disarm":
		g.orderDisarm(ev)
	case "arm":
		g.orders.disarmed = 0
		g.note(KindShield, "shield armed by an admin")
		g.reply(ev.Key, "")
	case "stop":
		if !g.orders.stopping() {
			g.orders.stop, g.orders.stopBy = ev.Key, g.now.Mono+stopWithin
			for _, s := range g.servers {
				g.cancelQueries(s, "stopping")
			}
		}
	default:
		g.reply(ev.Key, fmt.Sprintf("unknown order %q", ev.Verb))
	}
}

func (g *Guard) orderSync(ev Ordered) {
	switch {
	case g.orders.stopping():
		g.reply(ev.Key, "the daemon is stopping")
		return
	case len(g.orders.syncs) >= maxOrders:
		g.reply(ev.Key, "too many orders are waiting")
		return
	case len(g.chosenOnes()) == 0:
		g.reply(ev.Key, "no server is known yet: "+g.whyNoServers())
		return
	}
	if !g.round.active {
		if at := g.nextAllowed(); at > g.now.Mono+ahead {
			g.reply(ev.Key, fmt.Sprintf("every server was asked as often as its limit allows: again in %s", (at-g.now.Mono).Round(time.Second)))
			return
		}
	}
	if ev.Verb == "step" {
		g.clock.stepOnce = true
	}
	g.orders.syncs = append(g.orders.syncs, ev.Key)
	g.syncSoon()
}

// nextAllowed is when the first of the servers may be asked again.
func (g *Guard) nextAllowed() time.Duration {
	var at time.Duration = -1
	for _, s := range g.chosenOnes() {
		if t := g.allowed(s); at < 0 || t < at {
			at = t
		}
	}
	return at
}

func (g *Guard) orderDisarm(ev Ordered) {
	if ev.For <= 0 || ev.For > 24*time.Hour {
		g.reply(ev.Key, "disarm takes a time of up to 24h")
		return
	}
	g.orders.disarmed = g.now.Mono + ev.For
	g.note(KindShield, fmt.Sprintf("shield disarmed by an admin for %s: nothing is dropped", ev.For))
	g.reply(ev.Key, "")
}

func (g *Guard) reply(k Key, err string) {
	g.orders.replies = append(g.orders.replies, Reply{Key: k, Err: err})
}

// endSyncs replies to whoever waits for a sync.
func (g *Guard) endSyncs(judged bool, why string) {
	for _, k := range g.orders.syncs {
		if judged {
			why = ""
		}
		g.reply(k, why)
	}
	g.orders.syncs = nil
}

// advanceOrders completes a stop: everything of ours is gone, or time is up.
func (g *Guard) advanceOrders() bool {
	o := &g.orders
	if !o.stopping() || o.done {
		return false
	}
	for _, a := range g.addresses {
		if a.kind == "throw-away" && (a.phase == held || g.stands(a.addr)) && !g.due(o.stopBy) {
			return false
		}
	}
	if len(g.ledger.records) > 0 && g.ledger.err == nil && !g.due(o.stopBy) {
		return false
	}
	g.endSyncs(false, "the daemon is stopping")
	o.done = true
	g.reply(o.stop, "")
	return true
}

// planReplies hands each reply out once.
func (g *Guard) planReplies() []Reply {
	out := g.orders.replies
	g.orders.replies = nil
	return out
}
