// Package ledger remembers across restarts, in one bbolt file: the choice of
// servers, their buckets and back-offs, exposures, and how far the clock was moved.
//
// Guarantees: what Write returned for is on disk, all of it (one transaction,
// synced). A file that cannot be read is moved aside, never deleted, and a fresh
// one begun. What is not a regular file is refused. The file is bounded: the
// oldest entries go first.
//
// A [Ledger] may be used by several goroutines.
package ledger
