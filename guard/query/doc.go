// Package query makes one NTP exchange from a given source address and port.
//
// The exchange runs through github.com/beevik/ntp over a connection of our own,
// which knows the request that it wrote and checks every datagram (RFC 5905
// sections 7.3 and 8, RFC 9109) before the library sees it: what does not match
// is dropped, and reading goes on until the deadline. The time of arrival is the
// kernel's (SO_TIMESTAMPNS). Nothing that a server sends can stop the daemon,
// and no field of it is taken without a bound.
//
// An [Asker] may be used by several goroutines; each exchange has a socket of
// its own.
package query
