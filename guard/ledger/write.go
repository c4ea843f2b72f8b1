package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
)

// Write stores records in order: when it returns nil, all of them are on disk.
func (l *Ledger) Write(records []guard.Record) error {
	err := l.db.Update(func(tx *bolt.Tx) error {
		for _, r := range records {
			if err := put(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return l.bound(len(records))
}

// bound prunes every so many rows: counting a bucket walks it.
func (l *Ledger) bound(wrote int) error {
	if l.wrote.Add(int64(wrote)) < pruneEvery {
		return nil
	}
	l.wrote.Store(0)
	if err := l.db.Update(func(tx *bolt.Tx) error { return prune(tx, time.Now()) }); err != nil {
		return fmt.Errorf("prune ledger: %w", err)
	}
	return nil
}

// put stores what a record holds for the ledger.
func put(tx *bolt.Tx, r guard.Record) error {
	switch {
	case r.Exposure != nil:
		return store(tx, "exposures", r.Exposure.Addr.String()+" "+r.Exposure.Server.String(), r.Exposure)
	case r.Server != nil:
		return store(tx, "servers", r.Server.Addr.String(), r.Server)
	case r.Pool != nil:
		return store(tx, "pools", r.Pool.Name, r.Pool)
	case r.Clock != nil:
		return store(tx, "clock", string(clockKey), r.Clock)
	}
	return nil
}

func store(tx *bolt.Tx, bucket, key string, row any) error {
	b, err := json.Marshal(row)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucket)).Put([]byte(key), b)
}

// prune keeps every bucket within its limit. It looks only when one is over,
// and then makes room for a while.
func prune(tx *bolt.Tx, now time.Time) error {
	for name, most := range limits {
		if b := tx.Bucket([]byte(name)); b.Stats().KeyN > most {
			if err := shorten(b, name, most*9/10, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// shorten removes what is over, then the oldest, until so many rows are left.
func shorten(b *bolt.Bucket, name string, left int, now time.Time) error {
	type row struct {
		key []byte
		at  time.Time
	}
	var all []row
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		all = append(all, row{slices.Clone(k), age(name, v)})
	}
	slices.SortFunc(all, func(x, y row) int { return x.at.Compare(y.at) })
	for i, r := range all {
		if i >= len(all)-left && (name != "exposures" || now.Before(r.at.Add(keepAfter))) {
			return nil
		}
		if err := b.Delete(r.key); err != nil {
			return err
		}
	}
	return nil
}

// age is what rows are ordered by: the end of a guard, the last use of a bucket.
// A row that cannot be read is the oldest of all.
func age(name string, v []byte) time.Time {
	switch name {
	case "exposures":
		x, _ := decode[guard.ExposureRecord](v)
		if x.GuardedUntil.IsZero() {
			return x.AskedAt
		}
		return x.GuardedUntil
	case "servers":
		x, _ := decode[guard.ServerRecord](v)
		return x.TokensAt
	}
	x, _ := decode[guard.PoolRecord](v)
	return x.Resolved
}
