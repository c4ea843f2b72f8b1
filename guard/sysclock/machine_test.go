package sysclock

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/lab"
	"ntpveil/guard/servo"
)

// TestMachine boots a virtual machine, whose clock may be set, and runs the tests
// of this package that are for a real clock in it.
func TestMachine(t *testing.T) {
	for _, tool := range []string{"qemu-system-x86_64", "vmlinuz"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s: make setup installs it", tool)
		}
	}
	program := filepath.Join(t.TempDir(), "init")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := lab.Boot(t.Context(), program, "-machine", "-test.v", "-test.run=^TestKernelsClock$")
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestKernelsClock (")) {
		t.Errorf("%v\n%s", err, out)
	}
}

var machine = flag.Bool("machine", false, "this is a machine whose clock may be set")

// TestKernelsClock: what the kernel makes of corrections is what the core
// believes that it makes.
func TestKernelsClock(t *testing.T) {
	if !*machine {
		return // TestMachine runs it
	}
	if os.Getpid() != 1 {
		t.Fatal("this is no machine of its own")
	}
	k := realClock{t, New(Kernel, may.AddDate(-1, 0, 0))}
	t.Run("foreign slew", k.foreignSlew)
	t.Run("step", k.step)
	t.Run("jump", k.jump)
	t.Run("slew", k.slew)
	t.Run("frequency", k.frequency)
	t.Run("error", k.errorGrows)
	t.Run("leap", k.leap)
	t.Run("disarmed leap", k.disarmed)
}

// realClock is the clock of a machine that is ours.
type realClock struct {
	*testing.T
	*Clock
}

func (k realClock) must(fix guard.Fix) guard.ClockSeen {
	k.Helper()
	seen := k.Fix(fix)
	if seen.Err != nil {
		k.Fatal(seen.Err)
	}
	return seen
}

// foreignSlew: what adjtime(3) of another program left ends with our first correction.
func (k realClock) foreignSlew(t *testing.T) {
	if _, err := Kernel(&unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: 10_000_000}); err != nil {
		t.Fatal(err)
	}
	k.must(guard.Fix{Sync: true, Error: time.Millisecond})
	left := unix.Timex{Modes: unix.ADJ_OFFSET_SS_READ}
	if _, err := Kernel(&left); err != nil || left.Offset != 0 {
		t.Errorf("%d us are left, %v", left.Offset, err)
	}
}

func (k realClock) step(t *testing.T) {
	for _, to := range []time.Time{may, may.Add(-1250 * time.Millisecond), may.Add(time.Hour)} {
		k.must(guard.Fix{Step: time.Until(to), Sync: true, Error: time.Millisecond})
		if off := time.Until(to).Abs(); off > 100*time.Millisecond {
			t.Errorf("stepped to %s: off by %s", to, off)
		}
	}
}

// jump: a step, be it our own, is told of at once; a slew is none.
func (k realClock) jump(t *testing.T) {
	jumped := make(chan time.Duration, 8)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Jumps{}.Watch(ctx, func() { jumped <- Mono() }) }()
	told := false
	for range 20 { // the watch may not stand yet
		since := Mono()
		k.must(guard.Fix{Step: time.Second})
		select {
		case at := <-jumped:
			t.Logf("told after %s", at-since)
			told = true
		case <-time.After(time.Second):
		}
		if told {
			break
		}
	}
	stop()
	if err := <-ended; !told || err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("told: %t, %v", told, err)
	}
}

// slew follows two slews until little is left of them.
func (k realClock) slew(t *testing.T) {
	for _, fix := range []guard.Fix{{Slew: 30 * time.Millisecond}, {Slew: -150 * time.Millisecond, Over: 1}} {
		before := ahead()
		seen := k.must(fix)
		model := servo.Slew{Phase: fix.Slew.Seconds(), First: seen.At.Mono + time.Second - time.Duration(seen.At.Wall.Nanosecond()), Constant: fix.Over}
		part := 0.0
		for part < 0.95 {
			time.Sleep(317 * time.Millisecond) // no second is met at the same place twice
			at := Mono()
			part = model.Done(at.Seconds()) / model.Phase
			slewed := (ahead() - before).Seconds() / model.Phase
			// An emulated processor that stood still notices its seconds late.
			if least, most := model.Done(at.Seconds()-3)/model.Phase, model.Done(at.Seconds()+0.5)/model.Phase; slewed < least-0.02 || slewed > most+0.02 {
				t.Fatalf("slew by %s, %s after: %.3f of it is done, not %.3f", fix.Slew, at-seen.At.Mono, slewed, part)
			}
		}
	}
}

func (k realClock) frequency(t *testing.T) {
	k.must(guard.Fix{Frequency: 400})
	time.Sleep(time.Second) // the part of a slew that is under way goes on to the end of its second
	before, since := ahead(), Mono()
	time.Sleep(2 * time.Second)
	if rate := float64(ahead()-before) / float64(Mono()-since) * 1e6; math.Abs(rate-400) > 50 {
		t.Errorf("made faster by 400 ppm: %.1f ppm", rate)
	}
	if seen := k.Fix(guard.Fix{Before: 100}); seen.Err == nil || k.Look().Frequency != 400 {
		t.Errorf("a frequency that was not left so: %+v", seen)
	}
	k.must(guard.Fix{Before: 400})
	if _, err := Kernel(&unix.Timex{Modes: unix.ADJ_TICK, Tick: nominalTick + 3}); err != nil {
		t.Fatal(err)
	}
	if seen := k.Fix(guard.Fix{}); seen.Err == nil || k.Look().Frequency != 300 {
		t.Errorf("a tick that was not left so: %+v, %+v", seen, k.Look())
	}
	k.must(guard.Fix{Before: 300, Sync: true})
	if seen := k.Look(); seen.Frequency != 0 || !seen.Synced {
		t.Errorf("the tick is not as it was: %+v", seen)
	}
	k.must(guard.Fix{})
	if k.Look().Synced {
		t.Error("not synchronised, and not said")
	}
}

// errorGrows to where the kernel itself calls its clock unsynchronised.
func (k realClock) errorGrows(t *testing.T) {
	k.must(guard.Fix{Sync: true, Error: maxError - time.Millisecond})
	var tx unix.Timex
	for tx.Status&unix.STA_UNSYNC == 0 && int64(tx.Maxerror) < int64(2*maxError/time.Microsecond) {
		time.Sleep(100 * time.Millisecond)
		if _, err := Kernel(&tx); err != nil {
			t.Fatal(err)
		}
	}
	if int64(tx.Maxerror) != int64(maxError/time.Microsecond) {
		t.Errorf("unsynchronised at %d us", tx.Maxerror)
	}
}

// leap: the last second of June comes twice.
func (k realClock) leap(t *testing.T) {
	if made := k.overMidnight(func() {}); (made + time.Second).Abs() > time.Millisecond {
		t.Errorf("the clock was set by %s", made)
	}
}

// disarmed: a later correction that knows of no leap second takes it back.
func (k realClock) disarmed(t *testing.T) {
	if made := k.overMidnight(func() { k.must(guard.Fix{Sync: true}) }); made.Abs() > time.Millisecond {
		t.Errorf("the clock was set by %s", made)
	}
}

// overMidnight arms a leap second, has something done, and returns by what the
// clock was set when the last second of June was over.
func (k realClock) overMidnight(do func()) time.Duration {
	midnight := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	k.must(guard.Fix{Step: time.Until(midnight.Add(-1500 * time.Millisecond)), Leap: 1, Sync: true})
	before := read(unix.CLOCK_REALTIME) - read(unix.CLOCK_MONOTONIC)
	do()
	for time.Until(midnight) > -200*time.Millisecond {
		time.Sleep(100 * time.Millisecond)
	}
	made := read(unix.CLOCK_REALTIME) - read(unix.CLOCK_MONOTONIC) - before
	k.must(guard.Fix{Sync: true})
	return made
}

// ahead is how far the clock has got ahead of one that nobody corrects, by the
// reading that was disturbed least.
func ahead() time.Duration {
	best, of := time.Hour, time.Duration(0)
	for range 20 {
		a := read(unix.CLOCK_MONOTONIC_RAW)
		now := read(unix.CLOCK_REALTIME)
		b := read(unix.CLOCK_MONOTONIC_RAW)
		if b-a < best {
			best, of = b-a, now-a-(b-a)/2
		}
	}
	return of
}
