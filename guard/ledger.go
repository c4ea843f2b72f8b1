package guard

import (
	"fmt"
	"slices"
	"time"
)

const ledgerPause = 5 * time.Second // between attempts to write, once one failed

// ledger is what the core knows of the ledger: what waits to be written.
type ledger struct {
	records []Record
	wroteTo Key // every record up to it is on disk, but
	gap     gap
	lost    int // records that were dropped for want of room
	err     error
	retryAt time.Duration
	left    Snapshot             // of the run before this one, until adopted
	keys    map[string]NTSRecord // of the run before this one, until their host has a place
}

// gap is a range of records that never reach the disk: after, up to.
type gap struct{ after, upto Key }

// wrote reports whether a record is on disk.
func (l *ledger) wrote(k Key) bool { return k <= l.wroteTo && !l.dropped(k) }

// dropped reports whether a record will never be on disk.
func (l *ledger) dropped(k Key) bool { return k > l.gap.after && k <= l.gap.upto }

// makeRoom drops the oldest line of the journal, else the oldest record: what
// waits for that one waits in vain.
func (l *ledger) makeRoom() {
	l.lost++
	i := slices.IndexFunc(l.records, func(r Record) bool { return !r.Kept() })
	if i < 0 {
		i = 0
		if l.gap.upto <= l.wroteTo {
			l.gap.after = l.wroteTo
		}
		l.gap.upto = l.records[0].Key
	}
	l.records = slices.Delete(l.records, i, i+1)
}

// record puts a record into the plan.
func (g *Guard) record(r Record) Key {
	r.Key, r.At = g.key(), g.now.Wall.UTC()
	l := &g.ledger
	if len(l.records) >= maxRecords {
		l.makeRoom()
	}
	l.records = append(l.records, r)
	return r.Key
}

// note is a line for the journal.
func (g *Guard) note(kind Kind, text string) { g.record(Record{Kind: kind, Text: text}) }

func (g *Guard) recorded(ev Recorded) {
	l := &g.ledger
	if ev.Err != nil {
		if l.err == nil {
			g.note(KindNotice, fmt.Sprintf("ledger: %v; no query leaves until it can be written", ev.Err))
		}
		l.err, l.retryAt = ev.Err, g.now.Mono+ledgerPause
		return
	}
	l.err, l.retryAt = nil, 0
	l.wroteTo = max(l.wroteTo, min(ev.Upto, g.last))
	l.records = slices.DeleteFunc(l.records, func(r Record) bool { return r.Key <= l.wroteTo })
	if l.lost > 0 && len(l.records) < maxRecords/2 {
		lost := l.lost
		l.lost = 0
		g.note(KindNotice, fmt.Sprintf("%d records were lost: the ledger could not keep up", lost))
	}
}

func (g *Guard) planRecords() []Record {
	if g.ledger.err != nil && !g.due(g.ledger.retryAt) {
		return nil
	}
	return slices.Clone(g.ledger.records)
}

// restore takes what the ledger remembers, once. It is put to use by adopt, when
// the configuration and the host are known too.
func (g *Guard) restore(ev Restored) {
	if g.restored {
		return
	}
	g.restored, g.ledger.left = true, ev.Ledger
	if ev.Err != nil {
		g.note(KindNotice, fmt.Sprintf("ledger: %v", ev.Err))
	}
}

// restoreServer gives a server of the run before its bucket, its back-off and,
// if it had one and its pool is still configured, its place.
func (g *Guard) restoreServer(r ServerRecord) {
	limits := r.Rate > 0 || r.DeniedUntil.After(g.now.Wall)
	if n := len(g.servers); !r.Addr.IsValid() || n >= maxServers+maxLimited || n >= maxServers && !limits {
		return
	}
	b := &bucket{tokens: min(max(r.Tokens, 0), bucketBurst), at: min(g.mono(r.TokensAt), g.now.Mono)}
	b.fill(g.now.Mono)
	if old := g.buckets[key64(r.Addr.Addr())]; old == nil || old.tokens > b.tokens {
		g.buckets[key64(r.Addr.Addr())] = b
	}
	s := &server{addr: r.Addr, name: r.Name, pool: r.Pool, rate: min(max(r.Rate, 0), maxRate)}
	if left := r.DeniedUntil.Sub(g.now.Wall); left > 0 {
		s.denied = g.now.Mono + min(left, denyFor)
	}
	if s.rate > 0 {
		s.lastAsk, s.everAsked = b.at, true
	}
	s.chosen = r.Chosen && r.Pool != "" && slices.Contains(g.conf.Pools, r.Pool) && g.seated() < g.conf.Use &&
		!slices.ContainsFunc(g.servers, func(o *server) bool { return o.chosen && block(o.addr.Addr()) == block(r.Addr.Addr()) })
	g.servers = append(g.servers, s)
}
