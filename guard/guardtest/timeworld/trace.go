package timeworld

import (
	"math"
	"strings"
	"time"

	"ntpveil/guard"
)

const (
	closely = time.Second      // the clock is looked at so often at first
	rarely  = 16 * time.Second // and so often later
	first   = time.Hour
	good    = 1e-3 // s
)

// Trace is what became of the clock.
type Trace struct {
	due     time.Duration
	Looks   []Look
	Fixes   []Correction
	Steps   int
	refused bool     // a limit of the clock was met
	notes   []string // the last ones, corrections apart
	told    int      // how many there were
}

// Look is one look at the clock.
type Look struct {
	At  time.Duration
	Off float64 // s that it is behind by
}

// Correction is one that was made.
type Correction struct {
	At time.Duration
	guard.Fix
}

func (t *Trace) look(at time.Duration, off float64) {
	t.Looks = append(t.Looks, Look{at, off})
	if t.due = at + rarely; at < first {
		t.due = at + closely
	}
}

func (t *Trace) corrected(at time.Duration, f guard.Fix) {
	t.Fixes = append(t.Fixes, Correction{at, f})
	if f.Step != 0 {
		t.Steps++
	}
}

const maxNotes = 64 // kept of what the core said

// said keeps what the core says to people, but for what it says of every
// correction and server.
func (t *Trace) said(r guard.Record) {
	text := r.Text
	if text == "" || r.Kind != guard.KindNotice {
		return
	}
	t.told++
	t.refused = t.refused || strings.Contains(text, "max_change")
	if t.notes = append(t.notes, text); len(t.notes) > maxNotes {
		t.notes = t.notes[1:]
	}
}

// since are the notes after the first so many.
func (t *Trace) since(n int) []string { return t.notes[max(0, len(t.notes)-(t.told-n)):] }

// between are the looks of a stretch.
func between(looks []Look, from, to time.Duration) []Look {
	var out []Look
	for _, l := range looks {
		if l.At >= from && l.At < to {
			out = append(out, l)
		}
	}
	return out
}

// RMS is the root of the mean square, and worst the largest.
func RMS(looks []Look) (rms, worst float64) {
	for _, l := range looks {
		rms += l.Off * l.Off
		worst = max(worst, math.Abs(l.Off))
	}
	return math.Sqrt(rms / float64(max(len(looks), 1))), worst
}

// StaysBelow is when the clock came within a limit for good; ok is false if it
// did not.
func StaysBelow(looks []Look, limit float64) (at time.Duration, ok bool) {
	for i, l := range looks {
		if !(math.Abs(l.Off) < limit) {
			at, ok = l.At, false
			continue
		}
		if !ok {
			at, ok = looks[i].At, true
		}
	}
	return at, ok
}
