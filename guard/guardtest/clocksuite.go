package guardtest

import (
	"math"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
)

// ClockBench is an implementation of daemon.Clock and the clock behind it, which
// stands still at noon, one year after the floor.
type ClockBench struct {
	Clock daemon.Clock
	Text  func() string // as the model's String
}

// ClockNoon is what the clock of a bench shows; ClockFloor is its floor.
var (
	ClockNoon  = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	ClockFloor = time.Date(2025, 5, 1, 12, 0, 0, 0, time.UTC)
)

// ConformClock is what every implementation of daemon.Clock that corrects must do.
func ConformClock(t *testing.T, open func(t *testing.T) ClockBench) {
	const untouched = "2026-05-01T12:00:00Z, +0.000000 s to be slewed, +0.000 ppm, not synchronised within 16s"
	for name, tt := range map[string]struct {
		fixes  []guard.Fix
		refuse bool // the last one
		want   string
	}{
		"steps": {[]guard.Fix{{Step: 90 * time.Minute, Error: time.Second, Sync: true}}, false,
			"2026-05-01T13:30:00Z, +0.000000 s to be slewed, +0.000 ppm, synchronised within 1s"},
		"steps back by a part of a second": {[]guard.Fix{{Step: -1250 * time.Millisecond, Sync: true}}, false,
			"2026-05-01T11:59:58.75Z, +0.000000 s to be slewed, +0.000 ppm, synchronised within 0s"},
		"slews": {[]guard.Fix{{Slew: -3 * time.Millisecond, Error: 20 * time.Millisecond, Sync: true}}, false,
			"2026-05-01T12:00:00Z, -0.003000 s to be slewed, +0.000 ppm, synchronised within 20ms"},
		"a slew replaces the one before": {[]guard.Fix{{Slew: 400 * time.Millisecond}, {Slew: time.Millisecond, Sync: true}}, false,
			"2026-05-01T12:00:00Z, +0.001000 s to be slewed, +0.000 ppm, synchronised within 0s"},
		"a step ends a slew": {[]guard.Fix{{Slew: 400 * time.Millisecond}, {Step: time.Second, Sync: true}}, false,
			"2026-05-01T12:00:01Z, +0.000000 s to be slewed, +0.000 ppm, synchronised within 0s"},
		"says that it is lost":            {[]guard.Fix{{Sync: true}, {Error: time.Hour}}, false, untouched},
		"refuses a step before the floor": {[]guard.Fix{{Step: ClockFloor.Sub(ClockNoon) - 1, Sync: true}}, true, untouched},
		"refuses a slew that is too long": {[]guard.Fix{{Slew: 501 * time.Millisecond, Sync: true}}, true, untouched},
		"steers": {[]guard.Fix{{Frequency: 12.5, Slew: time.Millisecond}, {Before: 12.5, Frequency: -499.875, Sync: true}}, false,
			"2026-05-01T12:00:00Z, +0.000000 s to be slewed, -499.875 ppm, synchronised within 0s"},
		"leaves a clock that another program steers": {[]guard.Fix{{Before: -3, Slew: time.Second / 4, Frequency: 1, Sync: true}}, true, untouched},
		"takes such a clock over": {[]guard.Fix{{Before: -3, TakeOver: true, Frequency: 1, Sync: true}}, false,
			"2026-05-01T12:00:00Z, +0.000000 s to be slewed, +1.000 ppm, synchronised within 0s"},
		"refuses a frequency that is too high": {[]guard.Fix{{Frequency: 500.1, Sync: true}}, true, untouched},
		"refuses a frequency that is none":     {[]guard.Fix{{Frequency: math.NaN(), Sync: true}}, true, untouched},
		"makes all of it, or nothing":          {[]guard.Fix{{Step: time.Second, Slew: -time.Second, Sync: true}}, true, untouched},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			for i, fix := range tt.fixes {
				fix.Key = guard.Key(i + 1)
				refused := tt.refuse && i == len(tt.fixes)-1
				seen := b.Clock.Fix(fix)
				if seen.Key != fix.Key || (seen.Err != nil) != refused || !refused && (seen.Made != fix.Step || b.Clock.Look().Frequency != fix.Frequency) || refused && seen.Made != 0 {
					t.Errorf("%+v: %+v", fix, seen)
				}
			}
			if got := b.Text(); got != tt.want {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

// SaveBench is an implementation of daemon.Clock whose clock goes, and was last
// saved an hour after, or before, the present.
type SaveBench struct {
	Clock daemon.Clock
	Now   func() time.Time
	Told  func() bool
}

// ConformSave is what every implementation of daemon.Clock that saves must do.
// open makes one that was saved so long after the present; nil: never.
func ConformSave(t *testing.T, open func(t *testing.T, ahead *time.Duration) SaveBench) {
	hour, past := time.Hour, -time.Hour
	for name, tt := range map[string]struct {
		ahead  *time.Duration
		synced bool
		kept   bool // what was saved stays
	}{
		"for the first time":                        {nil, false, false},
		"for the first time, synchronised":          {nil, true, false},
		"forward":                                   {&past, false, false},
		"forward, synchronised":                     {&past, true, false},
		"never back":                                {&hour, false, true},
		"back where the clock is known to be right": {&hour, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, tt.ahead)
			before := b.Clock.Look().Saved
			if before.IsZero() != (tt.ahead == nil) {
				t.Fatalf("saved at %s before", before)
			}
			seen := b.Clock.Save(guard.Save{Key: 7, Synced: tt.synced})
			after := b.Clock.Look().Saved
			if seen != (guard.Saved{Key: 7}) || b.Told() != tt.synced {
				t.Errorf("%+v, others were told: %t", seen, b.Told())
			}
			if tt.kept != after.Equal(before) || !tt.kept && b.Now().Sub(after).Abs() > 10*time.Second {
				t.Errorf("saved at %s, then at %s", before, after)
			}
		})
	}
}
