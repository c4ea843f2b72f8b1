// Package nft makes the kernel's table match a shield (package rules) by
// netlink, and notices when somebody else changes it.
//
// Guarantees:
//
//   - Every change is one transaction as long as it fits into one netlink message
//     (some 128 KiB, over a thousand elements); the frame, that is chains, rules
//     and set definitions, is always changed in one. Elements survive a change of
//     the frame. There is no instant at which a chain is missing that was there
//     before and is there afterwards.
//   - What was added is read back before Grow returns; Seen tells only what was
//     read from the kernel.
//   - Lists of prefixes are in force whole or not at all (Block): that none was lost is
//     known from the set being full, for it was made for just so many.
//   - A deadline of an exposed address is never shortened, and its element is never
//     removed but with the table.
//   - A frame that this process did not put up, or that somebody else touched, is
//     seen as one that does not drop and guards no device (mode Observe), until Grow
//     replaces it. Its elements are seen as they are.
//
// Deadlines are readings of CLOCK_MONOTONIC, timeouts are what is left of them.
// The kernel counts in jiffies and a transaction takes its time, so every timeout
// is set half a second longer than wished: what is seen is at or after the wish.
//
// The netlink messages are written here, since github.com/google/nftables has
// neither comments of tables nor transactions that delete a table and make it
// again; its package expr encodes the expressions of rules.
//
// An exposure is in force and read back in 0.1 to 0.2 ms (running nft takes 5), a
// frame in 1 to 3, a loss is told and mended in 3; measured on Linux 6.18, two noisy cores.
//
// A Shield may be used by several goroutines; calls wait for each other, except
// Watch, which has a socket of its own.
package nft
