package daemon

import (
	"context"
	"sync"

	"ntpveil/guard"
)

// recorder writes records to the ledger and the journal, in order, each once,
// and acknowledges them.
type recorder struct {
	ledger  Ledger
	journal Journal
	report  func(guard.Recorded)
	poked   chan struct{}

	mu      sync.Mutex
	pending []guard.Record

	done guard.Key // the last one written; Run alone touches it
	said guard.Key // the last one that the journal has
}

func newRecorder(l Ledger, j Journal, report func(guard.Recorded)) *recorder {
	return &recorder{ledger: l, journal: j, report: report, poked: make(chan struct{}, 1)}
}

func (r *recorder) String() string { return "recorder" }

func (r *recorder) want(records []guard.Record) {
	if len(records) == 0 {
		return
	}
	r.mu.Lock()
	r.pending = records
	r.mu.Unlock()
	select {
	case r.poked <- struct{}{}:
	default:
	}
}

// Run writes until ctx is done, then what is left.
func (r *recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			r.write()
			return nil
		case <-r.poked:
			r.write()
		}
	}
}

func (r *recorder) write() {
	r.mu.Lock()
	records := r.pending
	r.mu.Unlock()
	for len(records) > 0 && records[0].Key <= r.done {
		records = records[1:]
	}
	if len(records) == 0 {
		return
	}
	r.tell(records)
	last := records[len(records)-1].Key
	if err := r.keep(records); err != nil {
		r.report(guard.Recorded{Upto: last, Err: err})
		return
	}
	r.done = last
	r.report(guard.Recorded{Upto: last})
}

// tell gives the journal each record once, whatever becomes of the ledger.
func (r *recorder) tell(records []guard.Record) {
	for _, rec := range records {
		if rec.Key <= r.said || rec.Text == "" {
			continue
		}
		r.journal.Write(rec)
		r.said = rec.Key
	}
}

func (r *recorder) keep(records []guard.Record) error {
	var kept []guard.Record
	for _, rec := range records {
		if rec.Kept() {
			kept = append(kept, rec)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return r.ledger.Write(kept)
}
