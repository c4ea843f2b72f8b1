package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"ntpveil/rules"
)

// Session is where an order was typed. The command tells it, which is root's: it
// keeps root from mistakes, not from lies.
type Session struct {
	ID     string        `json:"id"`     // empty: it cannot be told
	Began  time.Duration `json:"began"`  // Boot
	From   netip.Addr    `json:"from"`   // the far end of an ssh session; invalid: it is none
	Port   uint16        `json:"port"`   // where it connected to
	Device string        `json:"device"` // by which it came; empty: it cannot be told
}

// Confirms is nil where a session can confirm what was applied by another one at
// that time: a session that began before would live on though no new one can begin.
func (s Session) Confirms(by string, at time.Duration) error {
	switch {
	case s.ID == "":
		return errors.New("it cannot be told from which session this comes: log in anew and confirm from there")
	case s.ID == by:
		return errors.New("this is the session that it was applied from, which lives on even where no new one can begin: log in anew and confirm from there")
	case s.Began <= at:
		return errors.New("this session began before it was applied, and lives on even where no new one can begin: log in anew and confirm from there")
	}
	return nil
}

// whyCut is why a preset would cut the session that it is ordered from; empty
// where it does not.
func (g *Guard) whyCut(s Session, p rules.Preset) string {
	c := g.conf
	c.choose(p)
	shield := rules.Shield{Mode: rules.Enforce, Allow: c.Allow, Trusted: c.Trusted, Choices: c.Choices}
	if !p.Mode.Drops() {
		return ""
	}
	return s.WhyCut(p.Name, shield)
}

// WhyCut says why rules would cut a session, where they do: it may live on as long
// as conntrack knows it, but a new one like it could not begin.
func (s Session) WhyCut(preset string, shield rules.Shield) string {
	if !s.From.IsValid() || shield.Admits(s.From, s.Device, "tcp", s.Port) {
		return ""
	}
	return fmt.Sprintf("preset %s would cut the session that this was typed in, from %s to tcp/%d: add \"tcp/%d\" to what it allows, or %s to what it trusts",
		preset, s.From, s.Port, s.Port, s.From)
}
