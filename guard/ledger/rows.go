package ledger

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
)

// Names of buckets. A row is JSON under a key that a person can read and that
// follows from the row, so that one damaged bit does not pass for another address.
const (
	exposures = "exposures" // under "ADDRESS SERVER"
	servers   = "servers"   // under "ADDRESS:PORT"
	pools     = "pools"     // under the name
	clock     = "clock"     // one row, under "clock"
	keys      = "keys"      // of NTS, under "HOST:PORT"; the first version had none
	about     = "meta"      // the schema's version, under "schema"; the preset that was applied, under "rules"
)

var buckets = []string{exposures, servers, pools, clock, about, keys}

// place is where a row lies.
type place struct{ bucket, key string }

// row is what is put where.
type row struct {
	place
	value []byte
}

func exposureKey(r guard.ExposureRecord) string {
	if !r.Addr.IsValid() {
		return ""
	}
	return text(r.Addr) + " " + text(r.Server)
}

func serverKey(r guard.ServerRecord) string {
	if !r.Addr.IsValid() {
		return ""
	}
	return r.Addr.String()
}

func poolKey(r guard.PoolRecord) string { return r.Name }

func keysKey(r guard.NTSRecord) string { return r.Name }

func clockKey(guard.ClockRecord) string { return "clock" }

func rulesKey(guard.RulesRecord) string { return "rules" }

func text(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// rowsOf is what records ask to keep.
func rowsOf(records []guard.Record) ([]row, error) {
	var rows []row
	var errs []error
	for _, r := range records {
		rows = add(rows, &errs, exposures, r.Exposure, exposureKey)
		rows = add(rows, &errs, servers, r.Server, serverKey)
		rows = add(rows, &errs, pools, r.Pool, poolKey)
		rows = add(rows, &errs, clock, r.Clock, clockKey)
		rows = add(rows, &errs, keys, r.NTS, keysKey)
		rows = add(rows, &errs, about, r.Rules, rulesKey)
	}
	return rows, errors.Join(errs...)
}

func add[T any](rows []row, errs *[]error, bucket string, r *T, keyOf func(T) string) []row {
	if r == nil {
		return rows
	}
	key := keyOf(*r)
	if key == "" || len(key) > bolt.MaxKeySize {
		*errs = append(*errs, fmt.Errorf("keep %s: a record without a name", bucket))
		return rows
	}
	value, err := json.Marshal(r)
	if err != nil {
		*errs = append(*errs, fmt.Errorf("keep %s of %s: %w", bucket, key, err))
		return rows
	}
	return append(rows, row{place{bucket, key}, value})
}

// decode reads a row. Its key must be the one that follows from it.
func decode[T any](key, value []byte, keyOf func(T) string) (r T, err error) {
	if err := json.Unmarshal(value, &r); err != nil {
		return r, err
	}
	if k := keyOf(r); k == "" || k != string(key) {
		return r, fmt.Errorf("the row of %q is under %q", k, key)
	}
	return r, nil
}

// all reads the rows of a bucket; those that do not parse are counted.
func all[T any](tx *bolt.Tx, bucket string, skipped *int, keyOf func(T) string) []T {
	var out []T
	c := tx.Bucket([]byte(bucket)).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		r, err := decode(k, v, keyOf)
		if err != nil {
			*skipped++
			continue
		}
		out = append(out, r)
	}
	return out
}

func snapshotOf(tx *bolt.Tx) (s guard.Snapshot, skipped int) {
	s.Exposures = all(tx, exposures, &skipped, exposureKey)
	s.Servers = all(tx, servers, &skipped, serverKey)
	s.Pools = all(tx, pools, &skipped, poolKey)
	s.NTS = all(tx, keys, &skipped, keysKey)
	for _, c := range all(tx, clock, &skipped, clockKey) {
		s.Clock = c
	}
	if v := tx.Bucket([]byte(about)).Get([]byte("rules")); v != nil {
		var err error
		if s.Rules, err = decode([]byte("rules"), v, rulesKey); err != nil {
			skipped++
		}
	}
	slices.SortFunc(s.Exposures, func(a, b guard.ExposureRecord) int {
		return cmp.Or(a.Addr.Compare(b.Addr), a.Server.Compare(b.Server))
	})
	slices.SortFunc(s.Servers, func(a, b guard.ServerRecord) int {
		return cmp.Or(seat(a)-seat(b), b.TokensAt.Compare(a.TokensAt), a.Addr.Compare(b.Addr))
	})
	return s, skipped
}

// seat puts servers that hold one first: the reader may not have room for all.
func seat(r guard.ServerRecord) int {
	if r.Chosen {
		return 0
	}
	return 1
}

// dates say how old a row is, by the latest time in it; the zero time where it
// does not parse.
var dates = map[string]func(key, value []byte) time.Time{
	exposures: func(k, v []byte) time.Time {
		r, err := decode(k, v, exposureKey)
		return latest(err, r.GuardedUntil, r.ExistsUntil, r.AskedAt)
	},
	servers: func(k, v []byte) time.Time {
		r, err := decode(k, v, serverKey)
		return latest(err, r.TokensAt, r.DeniedUntil)
	},
	pools: func(k, v []byte) time.Time {
		r, err := decode(k, v, poolKey)
		return latest(err, r.Resolved)
	},
	keys: func(k, v []byte) time.Time {
		r, err := decode(k, v, keysKey)
		return latest(err, r.Made)
	},
}

func latest(err error, times ...time.Time) time.Time {
	if err != nil {
		return time.Time{}
	}
	return slices.MaxFunc(times, time.Time.Compare)
}
