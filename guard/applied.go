package guard

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"ntpveil/rules"
)

// MaxConfirm is the longest that a confirmation is waited for.
const MaxConfirm = 24 * time.Hour

// applied is the preset that an admin applied over the configured one, until the
// host reboots, and what it took the place of.
type applied struct {
	files   Config        // as it was read
	now     *put          // what holds in its place; nil: the configuration does
	byAdmin bool          // now was applied; otherwise a roll-back brought it back, and a reload ends it
	before  *put          // what a revert brings back; nil: there is nothing to revert
	kept    bool          // before was applied, too
	until   time.Duration // Mono: now is rolled back then; 0: it is confirmed
	at      time.Duration // Boot: when it was applied
	session string        // from where
	waiting Key           // the order that waits until it is in force and on disk
	record  Key           // of the last change
}

// put is a preset that holds or held.
type put struct {
	rules.Preset              // as it does: with what [shield] said when that was last read
	plain        rules.Preset // without, for a reload to lay [shield] over; of what was applied alone
}

// left: whoever ordered waits no longer.
func (a *applied) left(k Key) {
	if a.waiting == k {
		a.waiting = 0
	}
}

// Chosen is the preset that a configuration names, with what [shield] says in
// place of its own.
func (c Config) Chosen() rules.Preset {
	return rules.Preset{Name: c.Preset, Mode: c.Shield, Hold: c.Hold, Allow: c.Allow, Trusted: c.Trusted,
		Owner: c.Owner, LogGroup: c.LogGroup, Outside: c.Outside, Choices: c.Choices}
}

// Over is a preset with what [shield] says in place of its own.
func (c Config) Over(p rules.Preset) rules.Preset {
	w := c.Written
	if w.Mode && c.Shield != rules.Off { // which no preset is asked about
		p.Mode = c.Shield
	}
	if w.Hold {
		p.Hold = c.Hold
	}
	if w.Allow {
		p.Allow = c.Allow
	}
	if w.Trusted {
		p.Trusted = c.Trusted
	}
	if w.Owner {
		p.Owner = c.Owner
	}
	if w.LogGroup {
		p.LogGroup = c.LogGroup
	}
	return p
}

// choose puts a preset in the place of the configured one. A shield that is
// switched off stays so.
func (c *Config) choose(p rules.Preset) {
	if c.Shield == rules.Off {
		return
	}
	c.Preset, c.Shield, c.Hold, c.Allow, c.Trusted = p.Name, p.Mode, p.Hold, p.Allow, p.Trusted
	c.Owner, c.LogGroup, c.Outside, c.Choices = p.Owner, p.LogGroup, p.Outside, p.Choices
}

func same(p, q rules.Preset) bool {
	return p.Name == q.Name && p.Mode == q.Mode && p.Text() == q.Text()
}

// overlay puts what was applied over a configuration that was just read, and the
// keys of [shield] over that: they win over any preset's. What a roll-back brought
// back holds until then only: an admin has written since.
func (g *Guard) overlay(reload bool) {
	a := &g.applied
	a.files = g.conf
	switch {
	case a.now != nil && a.byAdmin:
		a.now = &put{g.conf.Over(a.now.plain), a.now.plain}
	case reload:
		a.now = nil
	}
	g.choosePreset()
}

// appliedStill says at a reload that it does not end what was applied.
func (g *Guard) appliedStill() string {
	a := &g.applied
	switch {
	case a.now == nil || !a.byAdmin:
		return ""
	case a.until != 0:
		return fmt.Sprintf("; preset %s, which was applied and waits to be confirmed, still holds, with the keys of [shield] over it", a.now.Name)
	}
	return fmt.Sprintf("; preset %s, which was applied, holds until the host reboots or `ntpveil rules revert`, with the keys of [shield] over it", a.now.Name)
}

func (g *Guard) choosePreset() {
	g.conf.choose(g.applied.files.Chosen())
	if g.applied.now != nil {
		g.conf.choose(g.applied.now.Preset)
	}
}

func (g *Guard) orderApply(ev Ordered) {
	a := &g.applied
	if why := g.whyNotApply(ev); why != "" {
		g.reply(ev.Key, why)
		return
	}
	before := put{Preset: g.conf.Chosen()}
	if a.kept = a.now != nil && a.byAdmin; a.kept {
		before = *a.now
	}
	a.before = &before
	a.now, a.byAdmin, a.at, a.session, a.until = &put{ev.Preset, ev.Plain}, true, g.now.Boot, ev.Session.ID, 0
	text := fmt.Sprintf("preset %s applied by an admin in place of %s", ev.Preset.Name, before.Name)
	if ev.For > 0 {
		a.until = g.now.Mono + ev.For
		text += fmt.Sprintf(", to be confirmed within %s", ev.For)
	}
	a.waiting = ev.Key
	g.choosePreset()
	g.readLists(ev.Lists)
	g.recordRules(text)
}

// readLists takes the lists as their files are now: the table of another preset is made
// anew, and a file that changed since cannot be put into it as it was.
func (g *Guard) readLists(now []rules.List) {
	g.conf.Lists = slices.Clone(g.conf.Lists)
	for i, l := range g.conf.Lists {
		if j := slices.IndexFunc(now, func(x rules.List) bool { return x.Name == l.Name }); j >= 0 {
			g.conf.Lists[i] = now[j]
		}
	}
}

// whyNotApply is empty where a preset can be applied.
func (g *Guard) whyNotApply(ev Ordered) string {
	switch {
	case g.orders.stopping():
		return "the daemon is stopping"
	case !g.adopted:
		return "the daemon has only just started: again in a moment"
	case ev.For < 0 || ev.For > MaxConfirm:
		return fmt.Sprintf("a confirmation is waited for up to %s", MaxConfirm)
	case g.conf.Shield == rules.Off || ev.Preset.Mode == rules.Off:
		return "the shield is switched off (shield.mode)"
	case g.applied.until != 0:
		return fmt.Sprintf("preset %s waits to be confirmed: `ntpveil rules confirm` or `ntpveil rules revert` comes first", g.conf.Preset)
	case g.seenErr != nil:
		return "the shield cannot be put up: " + g.seenErr.Error()
	}
	return g.whyCut(ev.Session, ev.Preset)
}

func (g *Guard) orderConfirm(ev Ordered) {
	a := &g.applied
	if a.until == 0 {
		g.reply(ev.Key, "no preset waits to be confirmed")
		return
	}
	if err := ev.Session.Confirms(a.session, a.at); err != nil {
		g.reply(ev.Key, err.Error())
		return
	}
	a.until = 0
	g.recordRules(fmt.Sprintf("preset %s confirmed by an admin: it holds until the host reboots", g.conf.Preset))
	g.reply(ev.Key, "")
}

func (g *Guard) orderRevert(ev Ordered) {
	if g.applied.before == nil {
		g.reply(ev.Key, "there is nothing to revert: no preset was applied since the host started")
		return
	}
	if why := g.whyCut(ev.Session, g.applied.before.Preset); why != "" {
		g.reply(ev.Key, why)
		return
	}
	g.rollBack("reverted by an admin")
	g.applied.waiting = ev.Key
}

// rollBack brings back what was in force before, as it was: its file may have
// changed since.
func (g *Guard) rollBack(why string) {
	a := &g.applied
	from, to := g.conf.Preset, *a.before
	if a.waiting != 0 {
		g.reply(a.waiting, "rolled back: "+why)
	}
	*a = applied{files: a.files, now: &to, byAdmin: a.kept}
	if same(to.Preset, a.files.Chosen()) {
		a.now, a.byAdmin = nil, false
	}
	g.choosePreset()
	g.recordRules(fmt.Sprintf("preset %s %s: %s is back", from, why, to.Name))
}

// advanceApplied rolls back what nobody confirmed, or what the kernel refused, and
// replies once what was applied is in force, and is known of after a crash.
func (g *Guard) advanceApplied() bool {
	a := &g.applied
	switch {
	case a.before != nil && a.waiting != 0 && g.seenErr != nil:
		g.rollBack("could not be put up (" + g.seenErr.Error() + ")")
		return true
	case a.waiting != 0 && g.seenErr != nil:
		g.reply(a.waiting, g.seenErr.Error())
		a.waiting = 0
	case a.until != 0 && g.due(a.until):
		g.rollBack("was not confirmed in time")
		return true
	case a.waiting != 0 && g.inForce() && g.closed(a.record):
		g.reply(a.waiting, "")
		a.waiting = 0
	}
	return false
}

// inForce reports whether the kernel has the rules of the chosen preset. Lists that
// cannot be loaded keep nobody waiting: noteLists says so.
func (g *Guard) inForce() bool {
	want, seen := g.planShield(), g.seen.Shield
	want.Devices, want.Hoods = seen.Devices, seen.Hoods // which come and go
	want.Facts, want.Lists = seen.Facts, seen.Lists
	return g.seenErr == nil && want.SameFrame(seen)
}

// closed reports whether a record is on disk, or will not be.
func (g *Guard) closed(k Key) bool {
	return g.ledger.wrote(k) || g.ledger.dropped(k) || g.ledger.err != nil
}

// recordRules keeps what was applied beyond a restart.
func (g *Guard) recordRules(text string) {
	a := &g.applied
	r := RulesRecord{BootID: g.host.BootID, Kept: a.kept, Until: a.until, At: a.at, Session: a.session}
	if a.now != nil && a.byAdmin {
		r.Now = a.now.record()
	}
	if a.before != nil {
		r.Before = a.before.record()
	}
	a.record = g.record(Record{Kind: KindShield, Text: text, Rules: &r})
}

// restoreRules takes over what was applied in an earlier run of this boot. What
// cannot be read does not hold: the configuration does.
func (g *Guard) restoreRules(r RulesRecord) {
	if r.BootID != g.host.BootID || r.Now.Name == "" {
		return
	}
	now, err := r.Now.preset()
	before, err2 := r.Before.preset()
	if err = cmp.Or(err, err2); err != nil {
		g.note(KindNotice, fmt.Sprintf("the preset that was applied is given up: %v", err))
		return
	}
	now.Preset = g.applied.files.Over(now.plain) // the configuration was read anew since
	g.applied = applied{files: g.applied.files, now: now, byAdmin: true, before: before, kept: r.Kept, at: r.At, session: r.Session}
	if before != nil && r.Until != 0 {
		g.applied.until = min(r.Until, g.now.Mono+MaxConfirm)
	}
	g.choosePreset()
}

func (p put) record() PresetRecord {
	r := PresetRecord{Name: p.Name, Text: p.Text()}
	if p.plain.Name != "" {
		r.Plain = p.plain.Text()
	}
	return r
}

func (r PresetRecord) preset() (*put, error) {
	if r.Name == "" {
		return nil, nil
	}
	p, err := rules.ParsePreset(r.Name, r.Text)
	plain, err2 := rules.ParsePreset(r.Name, cmp.Or(r.Plain, r.Text))
	return &put{p, plain}, cmp.Or(err, err2)
}

// Rules are the frames that are in force and that would be with a preset, and
// whether the first is what was put up.
func (g *Guard) Rules(p rules.Preset) (before, after rules.Shield, err error) {
	if s := g.shieldStatus(); s.State == "lost" {
		return before, after, fmt.Errorf("the shield is lost: %s", s.Reason)
	}
	if g.conf.Shield == rules.Off || p.Mode == rules.Off {
		return before, after, errors.New("the shield is switched off (shield.mode)")
	}
	conf := g.conf
	defer func() { g.conf = conf }()
	g.conf.choose(p)
	return g.seen.Shield, g.planShield(), nil
}
