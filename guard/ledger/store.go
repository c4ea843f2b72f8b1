package ledger

import (
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
)

const (
	keepExposures = 30 * 24 * time.Hour // after the end of the guard: time to hand the evidence on
	pruneEvery    = 24 * time.Hour
)

// most is how many rows a bucket may hold. Above it a sixteenth more than needed
// goes, so that not every Write has to look for the oldest.
var most = map[string]int{exposures: 20000, servers: 4096, pools: 256, keys: 32}

// put stores rows and prunes. now is the host's clock, which may be wrong.
func (s *store) put(rows []row, now time.Time) error {
	due := s.pruned.IsZero() || time.Since(s.pruned) >= pruneEvery
	var count map[string]int
	err := s.db.Update(func(tx *bolt.Tx) (err error) {
		count = maps.Clone(s.count)
		fresh, err := insert(tx, rows, count)
		if err != nil {
			return err
		}
		for bucket, limit := range most {
			over := count[bucket] > limit
			if !over && !(due && bucket == exposures) {
				continue
			}
			gone, err := prune(tx.Bucket([]byte(bucket)), bucket, fresh, s.horizon(now), over)
			if err != nil {
				return err
			}
			count[bucket] -= gone
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.count = count
	if due {
		s.pruned = time.Now()
	}
	s.seen, err = s.file.Stat()
	return err
}

// insert puts rows, counts those that are new, and returns which they are.
func insert(tx *bolt.Tx, rows []row, count map[string]int) (fresh map[place]bool, err error) {
	fresh = map[place]bool{}
	for _, r := range rows {
		b := tx.Bucket([]byte(r.bucket))
		if b.Get([]byte(r.key)) == nil {
			count[r.bucket]++
		}
		if err := b.Put([]byte(r.key), r.value); err != nil {
			return nil, err
		}
		fresh[r.place] = true
	}
	return fresh, nil
}

// horizon is the time before which exposures are forgotten. A clock that starts
// years ahead must not forget what is still guarded: since the last run wrote, no
// more than this run's own time is known to have passed.
func (s *store) horizon(now time.Time) time.Time {
	if known := s.before.Add(time.Since(s.opened)); known.Before(now) {
		now = known
	}
	return now.Add(-keepExposures)
}

// prune deletes the oldest rows of a bucket, never fresh ones: of exposures those
// before the horizon, and where there are too many, what is above the limit.
func prune(b *bolt.Bucket, bucket string, fresh map[place]bool, horizon time.Time, over bool) (gone int, err error) {
	type dated struct {
		key string
		at  time.Time
	}
	var old []dated
	total := 0
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if total++; !fresh[place{bucket, string(k)}] {
			old = append(old, dated{string(k), dates[bucket](k, v)})
		}
	}
	slices.SortStableFunc(old, func(a, b dated) int { return a.at.Compare(b.at) })
	if over {
		gone = min(total-most[bucket]+most[bucket]/16, len(old))
	}
	for bucket == exposures && gone < len(old) && old[gone].at.Before(horizon) {
		gone++
	}
	for _, d := range old[:gone] {
		if err := b.Delete([]byte(d.key)); err != nil {
			return 0, err
		}
	}
	return gone, nil
}

// newest is the time of the newest record.
func newest(records []guard.Record) time.Time {
	var at time.Time
	for _, r := range records {
		if r.At.After(at) {
			at = r.At
		}
	}
	return at
}

// tally counts the rows of each bucket.
func tally(tx *bolt.Tx) map[string]int {
	count := map[string]int{}
	for bucket := range most {
		c := tx.Bucket([]byte(bucket)).Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			count[bucket]++
		}
	}
	return count
}
