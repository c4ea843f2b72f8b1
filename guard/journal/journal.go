// Package journal tells the admin and the service manager: journal entries with
// fields, or plain lines on standard error where no journal listens, and
// sd_notify states.
//
// Nobody waits for whoever reads: journald may be stopped, a terminal held, the
// service manager frozen. Then some lines are kept, and what comes after them is
// lost and counted. A [Journal] may be used by several goroutines; it has one of
// its own, which [Journal.Close] ends.
package journal

import (
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

const (
	room        = 1024 // lines and states that wait to be read
	closeWithin = time.Second
)

// Journal writes records. Use New.
type Journal struct {
	lines io.Writer   // nil: to the journal
	queue chan func() // nil: the end
	ended chan struct{}
	lost  atomic.Int64
}

// New picks the journal if standard error is connected to it, else lines.
func New(stderr io.Writer) *Journal {
	j := &Journal{lines: stderr, queue: make(chan func(), room), ended: make(chan struct{})}
	if ok, err := journal.StderrIsJournalStream(); err == nil && ok {
		j.lines = nil
	}
	go j.work()
	return j
}

// work hands out what is queued, in order.
func (j *Journal) work() {
	defer close(j.ended)
	for do := range j.queue {
		if do == nil {
			return
		}
		do()
		if n := j.lost.Swap(0); n > 0 {
			j.write(guard.Record{Kind: guard.KindNotice, Text: fmt.Sprintf("%d lines were lost: nobody read them", n)})
		}
	}
}

// Close writes what is queued, for a second at most.
func (j *Journal) Close() {
	late := time.After(closeWithin)
	select {
	case j.queue <- nil:
	case <-late:
		return
	}
	select {
	case <-j.ended:
	case <-late:
	}
}

// Write writes one record.
func (j *Journal) Write(r guard.Record) {
	select {
	case j.queue <- func() { j.write(r) }:
	default:
		j.lost.Add(1)
	}
}

func (j *Journal) write(r guard.Record) {
	text := clean(r.Text)
	if j.lines != nil {
		fmt.Fprintf(j.lines, "ntpveil: %s\n", text)
		return
	}
	// While the journal restarts a line is lost; there is nobody to tell.
	_ = journal.Send(text, priority(r), fields(r))
}

// priority is warning for what an admin should look at.
func priority(r guard.Record) journal.Priority {
	switch r.Kind {
	case guard.KindShield:
		return journal.PriWarning
	case guard.KindNotice:
		return journal.PriNotice
	}
	return journal.PriInfo
}

// fields are what a journal can be searched by.
func fields(r guard.Record) map[string]string {
	f := map[string]string{"NTPVEIL_KIND": string(r.Kind)}
	if r.Exposure != nil {
		f["NTPVEIL_EXPOSURE"] = r.Exposure.Addr.String()
		f["NTPVEIL_SERVER"] = r.Exposure.Server.String()
	}
	if r.Server != nil {
		f["NTPVEIL_SERVER"] = r.Server.Addr.Addr().String()
	}
	return f
}

// clean makes one line of a text, parts of which may come from outside.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// Notify tells the service manager a state (sd_notify(3)); without one it does
// nothing. RELOADING=1 gets the time that systemd wants with it.
func (j *Journal) Notify(state string) {
	state = clean(state)
	if state == daemon.SdNotifyReloading {
		var ts unix.Timespec
		if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) == nil {
			state += fmt.Sprintf("\nMONOTONIC_USEC=%d", ts.Nano()/1000)
		}
	}
	select {
	case j.queue <- func() { _, _ = daemon.SdNotify(false, state) }: // whether anybody listens is not ours to judge
	default:
	}
}

// Watchdog is how often the service manager wants to hear of us; 0: never.
func Watchdog() time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0
	}
	return d
}
