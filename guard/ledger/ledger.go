package ledger

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
)

// ErrLocked is in the error of Open where another process has the ledger.
var ErrLocked = errors.New("another process has it open")

// ErrNewer is in the error of Open where a newer version wrote the ledger.
var ErrNewer = errors.New("a newer version wrote it")

// Ledger is an open ledger.
type Ledger struct {
	path string // without symbolic links

	mu     sync.Mutex
	store  *store // nil: given up; the next Write opens it anew
	why    error  // it was given up
	told   error  // what Load has to tell, once
	closed bool
}

// store is one opened file.
type store struct {
	db     *bolt.DB
	file   *os.File    // db's own
	seen   os.FileInfo // when it was last looked at
	count  map[string]int
	before time.Time // when it was last written by an earlier run
	opened time.Time
	pruned time.Time // zero: not since it was opened
	lost   error     // what was put aside for it
}

// Open opens the ledger, or begins one: the directory is made with mode 0700, the
// file with 0600. A damaged file is kept aside, which Load tells.
func Open(path string) (*Ledger, error) {
	real, err := locate(path)
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	s, err := openStore(real)
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	return &Ledger{path: real, store: s, told: s.lost}, nil
}

// Load is what the ledger remembers: servers that hold a place first, then the
// newest. An error may come along with a snapshot and a ledger that works: that a
// damaged file was put aside (told once), or that rows did not parse and were left out.
func (l *Ledger) Load() (guard.Snapshot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return guard.Snapshot{}, fmt.Errorf("read ledger: %w", err)
	}
	var snapshot guard.Snapshot
	skipped := 0
	err := l.guarded(func() error {
		return l.store.db.View(func(tx *bolt.Tx) error {
			snapshot, skipped = snapshotOf(tx)
			return nil
		})
	})
	if err != nil {
		return guard.Snapshot{}, fmt.Errorf("read ledger: %w", err)
	}
	told := l.told
	l.told = nil
	if skipped > 0 {
		told = errors.Join(told, fmt.Errorf("read ledger: %d rows do not parse and were left out", skipped))
	}
	return snapshot, told
}

// Write stores records durably, in order, in one transaction. After an error that
// says that the file is gone or damaged the next Write begins a fresh one.
func (l *Ledger) Write(records []guard.Record) error {
	rows, err := rowsOf(records)
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if len(rows) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.reopen(); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := l.usable(); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := l.guarded(func() error { return l.store.put(rows, newest(records)) }); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// Close ends the use of the file. Closing twice is no error.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.store == nil {
		return nil
	}
	if err := l.store.db.Close(); err != nil {
		return fmt.Errorf("close ledger: %w", err)
	}
	return nil
}

// usable says why the store cannot be used now. The file may have been removed,
// replaced or cut short since: what is written to it then would be lost.
func (l *Ledger) usable() error {
	switch {
	case l.closed:
		return os.ErrClosed
	case l.store == nil:
		return l.why
	}
	now, err := os.Stat(l.path)
	switch {
	case errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(now, l.store.seen):
		return l.fail(errors.New("the file was removed or replaced"))
	case err != nil:
		return err
	case now.Size() < l.store.seen.Size():
		return l.fail(errors.New("the file was cut short"))
	}
	l.store.seen = now
	return nil
}

// fail gives the store up.
func (l *Ledger) fail(why error) error {
	_ = l.store.db.Close() // what was acknowledged is on disk
	l.store, l.why = nil, why
	return why
}

// reopen takes the place of a store that was given up.
func (l *Ledger) reopen() error {
	if l.store != nil || l.closed {
		return nil
	}
	s, err := openStore(l.path)
	if err != nil {
		return err
	}
	l.store, l.told = s, errors.Join(l.told, s.lost)
	return nil
}

// guarded makes an error of a panic in bbolt, and of the fault that reading its
// map is where the disk fails or the file was cut short under it. The store is
// given up and the file put aside. Locks of bbolt may be held for ever, so only
// the file is closed.
func (l *Ledger) guarded(work func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		kept, asideErr := aside(l.path)
		_ = l.store.file.Close()
		l.store, l.why = nil, fmt.Errorf("the file is damaged: %v; it is kept as %s", p, kept)
		if asideErr != nil {
			l.why = fmt.Errorf("the file is damaged: %v; put it aside: %w", p, asideErr)
		}
		err = l.why
	}()
	return work()
}
