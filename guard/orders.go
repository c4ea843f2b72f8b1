package guard

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

const stopWithin = 4 * time.Second // service managers are told 5

// orders are what admins want, and how far it has come.
type orders struct {
	syncs    []syncOrder
	replies  []Reply
	disarmed time.Duration // until then
	stop     Key
	stopBy   time.Duration
	done     bool
}

// syncOrder is an admin's wish for a sync: it ends when a sync was judged that
// had not been before, and the clock was corrected.
type syncOrder struct {
	key    Key
	step   bool // the correction may be any size
	judged bool
}

func (o *orders) stopping() bool { return o.stop != 0 }

// stepping reports whether an admin permits a step of any size now.
func (o *orders) stepping() bool {
	return slices.ContainsFunc(o.syncs, func(s syncOrder) bool { return s.step })
}

// judged marks what waited for the judgement that was just made.
func (o *orders) judged() {
	for i := range o.syncs {
		o.syncs[i].judged = true
	}
}

func (g *Guard) order(ev Ordered) {
	switch ev.Verb {
	case "sync", "step":
		g.orderSync(ev)
	case "apply":
		g.orderApply(ev)
	case "confirm":
		g.orderConfirm(ev)
	case "revert":
		g.orderRevert(ev)
	case "leave":
		g.applied.left(ev.Key)
		g.orders.syncs = slices.DeleteFunc(g.orders.syncs, func(s syncOrder) bool { return s.key == ev.Key })
	case "disarm":
		g.orderDisarm(ev)
	case "arm":
		g.orders.disarmed = 0
		g.note(KindShield, "shield armed by an admin")
		g.reply(ev.Key, "")
	case "stop":
		if !g.orders.stopping() {
			g.orders.stop, g.orders.stopBy = ev.Key, g.now.Mono+stopWithin
			g.saved.next = g.now.Mono
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
		if why := g.notNow(); why != "" {
			g.reply(ev.Key, why)
			return
		}
	}
	g.orders.syncs = append(g.orders.syncs, syncOrder{key: ev.Key, step: ev.Verb == "step"})
	g.syncSoon()
}

// notNow is why a sync cannot begin now, empty where it can.
func (g *Guard) notNow() string {
	if why := g.hopeless(); why != "" {
		return why
	}
	can := g.turns()
	if len(can) == 0 {
		return cmp.Or(g.whyKeyless(), "there is no route to any server")
	}
	at := can[min(g.enough(), len(can))-1].at
	if at <= g.now.Mono+ahead {
		return ""
	}
	return fmt.Sprintf("the servers were asked as often as their limits allow: again in %s", (at - g.now.Mono).Round(time.Second))
}

// hopeless is why no sync can begin that no waiting changes by itself.
func (g *Guard) hopeless() string {
	if !g.network.usable() {
		return noNetwork
	}
	return g.futile()
}

// endHopeless ends the orders for a sync that was given up and cannot begin again.
func (g *Guard) endHopeless() bool {
	if len(g.orders.syncs) == 0 || g.round.active || g.clock.pending() || g.hopeless() == "" {
		return false
	}
	g.orders.judged()
	g.endSyncs(g.hopeless())
	return true
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

// endSyncs replies to whoever waited for the sync that was judged.
func (g *Guard) endSyncs(why string) {
	g.orders.syncs = slices.DeleteFunc(g.orders.syncs, func(s syncOrder) bool {
		if s.judged {
			g.reply(s.key, why)
		}
		return s.judged
	})
}

// advanceOrders completes a stop: everything of ours is gone, or time is up.
func (g *Guard) advanceOrders() bool {
	o := &g.orders
	if !o.stopping() || o.done {
		return g.endHopeless()
	}
	for _, a := range g.addresses {
		if a.kind == "throw-away" && (a.phase == held || g.stands(a.addr)) && !g.due(o.stopBy) {
			return false
		}
	}
	if (g.clock.pending() || g.saved.save.Key != 0) && !g.due(o.stopBy) {
		return false
	}
	if len(g.ledger.records) > 0 && g.ledger.err == nil && !g.due(o.stopBy) {
		return false
	}
	o.judged()
	g.endSyncs("the daemon is stopping")
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
