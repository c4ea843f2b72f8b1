package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ntpveil/guard"
)

// Group is whose members see exposures and may ask for a sync.
const Group = "ntpveil"

// Errors that callers may test for.
var (
	ErrNotRunning   = errors.New("the daemon does not run")
	ErrNotPermitted = errors.New("not permitted")
)

// Refused is the daemon's own answer that it did not do what was asked. After any other
// error of an order it may have done so, or may do so yet.
type Refused string

func (r Refused) Error() string { return string(r) }

// How long the daemon takes for an order, and waits for the clock, at most.
const (
	OrderMost = time.Minute
	WaitMost  = 24 * time.Hour
)

// rank is who somebody is.
type rank int

const (
	everyone rank = iota
	group
	root
)

var rankNames = [...]string{"everyone", "root and the group " + Group, "root"}

// verbs are what can be asked, and who may.
var verbs = map[string]rank{
	"status": everyone, "waitsync": everyone,
	"exposures": group, "sync": group,
	"step": root, "disarm": root, "arm": root,
	"diff": group, "apply": root, "confirm": root, "revert": root,
}

// Request is one line to the daemon.
type Request struct {
	Verb string `json:"verb"`
	For  string `json:"for,omitempty"` // a duration: of a disarm, or how long to wait

	Preset  string        `json:"preset,omitempty"` // diff, apply
	Session guard.Session `json:"session,omitzero"` // apply, confirm, revert
}

// Reply is one line from the daemon.
type Reply struct {
	Error  string        `json:"error,omitempty"`
	Denied bool          `json:"denied,omitempty"`
	Unsure bool          `json:"unsure,omitempty"` // it may come true yet: time was up before it was in force
	Status *guard.Status `json:"status,omitempty"`
	Diff   *Diff         `json:"diff,omitempty"`
}

// Diff is the rules that are in force and those that a preset would make, as nft text.
type Diff struct {
	Before string `json:"before"`
	After  string `json:"after"`
}

const (
	maxRequest = 4 << 10
	maxReply   = 16 << 20 // 4096 exposures and more
)

// parse reads a request.
func parse(line []byte) (r Request, d time.Duration, err error) {
	if err := json.Unmarshal(line, &r); err != nil {
		return r, 0, fmt.Errorf("read request: %w", err)
	}
	if _, known := verbs[r.Verb]; !known {
		return r, 0, fmt.Errorf("read request: unknown verb %.40q", r.Verb)
	}
	if r.For == "" {
		return r, 0, nil
	}
	if d, err = time.ParseDuration(r.For); err != nil || d < 0 || d > WaitMost {
		return r, 0, fmt.Errorf("read request: %.40q is no duration of up to %s", r.For, WaitMost)
	}
	return r, d, nil
}
