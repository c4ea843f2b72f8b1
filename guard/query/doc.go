// Package query makes one NTP exchange from a given source address and port.
//
// The exchange runs through github.com/beevik/ntp over a connection of our own.
// What goes out is ours to the last byte: 0x23, zeros and 64 random bits, as
// systemd-timesyncd sends, so that a server cannot tell us from that crowd. What
// comes in is checked (RFC 5905 sections 7.3 and 8) before the library sees it.
//
// Guarantees:
//   - Only a datagram that repeats the 64 random bits ends an exchange before its
//     deadline. The kernel drops all others at the socket: a flood costs no work
//     here and crowds no answer out.
//   - With NTS only an authentic answer to the very query ends it, and nothing of any
//     other datagram is believed: no time, no kiss-o'-death, no cookie.
//   - An ICMP error ends nothing, since it may be forged; it is told at the end.
//   - No value of any field, and no panic of the library, ends more than the
//     exchange. A sample's fields are bounded: see FuzzAnswer.
//   - A sample over which the clock was stepped is no sample.
//   - The times of departure and arrival are the kernel's (SO_TIMESTAMPING,
//     SO_TIMESTAMPNS), not those of our readings, where they lie between these. Nothing
//     waits for them, and nothing that arrives can forge them. The stamp of departure
//     takes the median error of the offset from some 5 µs to 2 or 3 where the query
//     comes alone (BenchmarkTransmitStamp).
//   - An exchange is answered exactly once. The socket then stays open and deaf
//     until its context is done: a late answer meets no closed port, and costs nothing.
//
// An [Asker] may be used by several goroutines; each exchange has a socket of
// its own.
package query
