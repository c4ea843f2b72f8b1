package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"ntpveil/guard"
)

// Errors that callers may test for.
var (
	ErrLocked = errors.New("another process holds it")
	ErrNewer  = errors.New("it was written by a newer version")
)

const (
	schema     = "1"
	lockWait   = time.Second
	pruneEvery = 500                 // rows
	keepAfter  = 30 * 24 * time.Hour // exposures are kept so long after their guard ended
)

// The buckets and how much each may hold.
var limits = map[string]int{"exposures": 20000, "servers": 4096, "pools": 256, "clock": 1}

var (
	metaBucket = []byte("meta")
	schemaKey  = []byte("schema")
	clockKey   = []byte("clock")
)

// Ledger is an open file.
type Ledger struct {
	db    *bolt.DB
	aside string // where a damaged file was moved to, and why
	wrote atomic.Int64
}

// Open opens or makes the file. A damaged one is moved aside: Load says so.
func Open(path string) (*Ledger, error) {
	if err := regular(path); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	db, err := open(path)
	switch {
	case err == nil:
		return &Ledger{db: db}, nil
	case errors.Is(err, ErrLocked), errors.Is(err, ErrNewer), errors.Is(err, fs.ErrPermission), !exists(path):
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().UnixNano())
	if e := os.Rename(path, aside); e != nil {
		return nil, fmt.Errorf("open ledger %s: %w; move it aside: %w", path, err, e)
	}
	db, e := open(path)
	if e != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, e)
	}
	return &Ledger{db: db, aside: fmt.Sprintf("it was damaged (%v) and was moved to %s", err, aside)}, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// regular refuses what must never be opened for writing as root: devices,
// directories, links to them.
func regular(path string) error {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return errors.New("not a regular file")
	}
	return nil
}

// open opens the file and checks it whole. bbolt panics and faults on some
// damage: both are errors here.
func open(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("damaged: %v", p)
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, err
	}
	if err := prepare(db); err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

// prepare reads every row, then the schema, and makes what is missing. bbolt's
// own check panics in a goroutine of its own, where nobody can catch it.
func prepare(db *bolt.DB) error {
	err := db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
	if err != nil {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		if v := meta.Get(schemaKey); v != nil && string(v) != schema {
			return fmt.Errorf("%w (schema %q)", ErrNewer, v)
		}
		for name := range limits {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return meta.Put(schemaKey, []byte(schema))
	})
}

// Close closes the file.
func (l *Ledger) Close() error { return l.db.Close() }

// Load reads everything. An error may come with a snapshot that is usable: a
// damaged file was moved aside, or some rows could not be read.
func (l *Ledger) Load() (guard.Snapshot, error) {
	var s guard.Snapshot
	bad := 0
	err := l.db.View(func(tx *bolt.Tx) error {
		s.Exposures = rows[guard.ExposureRecord](tx, "exposures", &bad)
		s.Servers = rows[guard.ServerRecord](tx, "servers", &bad)
		s.Pools = rows[guard.PoolRecord](tx, "pools", &bad)
		for _, c := range rows[guard.ClockRecord](tx, "clock", &bad) {
			s.Clock = c
		}
		return nil
	})
	switch {
	case err != nil:
		return guard.Snapshot{}, fmt.Errorf("read ledger: %w", err)
	case l.aside != "":
		return s, errors.New(l.aside)
	case bad > 0:
		return s, fmt.Errorf("read ledger: %d rows could not be read and are ignored", bad)
	}
	return s, nil
}

// rows decodes a bucket; what cannot be read is counted.
func rows[T any](tx *bolt.Tx, bucket string, bad *int) []T {
	var out []T
	c := tx.Bucket([]byte(bucket)).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if x, err := decode[T](v); err == nil {
			out = append(out, x)
		} else {
			*bad++
		}
	}
	return out
}

func decode[T any](row []byte) (x T, err error) {
	err = json.Unmarshal(row, &x)
	return x, err
}
