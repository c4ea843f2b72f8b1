// Package resolve turns names into addresses through the system's resolver.
//
// It reads /etc/hosts and /etc/resolv.conf as Go's own resolver does, and asks for
// AAAA and A apart from each other, so that the failure of one does not lose the
// other. Guarantees:
//   - A look-up ends before its deadline, with what is known by then.
//   - At most 64 addresses come back, each once, IPv6 first, IPv4 as IPv4, none
//     with a zone: whatever the name server sent.
//   - A name that does not exist is told from a failure that may pass (ErrNotFound).
//
// Which answers can be servers is the core's to say. A [Resolver] may be used by
// several goroutines.
package resolve
