// Package ledger remembers across restarts: who has seen which address, the choice
// of servers with their buckets and back-off, when pools were resolved, how far
// the clock was moved, which preset was applied. It is one bbolt file with JSON rows.
//
// What it guarantees:
//
//   - When Write returns nil its records are on disk, all of them; otherwise none.
//     An exposure is written before its address exists, so this is the promise that
//     every address is known of after a crash.
//   - Whatever is in the file, opening it ends: with what could be read, or with
//     the file kept aside as NAME.corrupt-TIME and a fresh one begun. bbolt trusts
//     its file and maps it, so that a damaged one can fault, loop or eat the memory;
//     every page that it would follow is checked first, by reading.
//   - A file of a newer schema and whatever is no regular file is refused and left alone.
//   - One process has it at a time, by a lock that ends with the process. Nothing
//     here waits: a ledger in use is an error at once.
//   - It stays small: exposures go 30 days after their guard ended, and above
//     20,000 the oldest go; 4096 servers and 256 pools.
//
// A Ledger may be used by several goroutines at once. It has none of its own.
package ledger
