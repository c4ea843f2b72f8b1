// Package resolve turns names into addresses through the system's resolver.
//
// It reads /etc/hosts and /etc/resolv.conf as Go's own resolver does, asks for
// AAAA and A apart from each other, so that the failure of one does not lose the
// other, and bounds what it returns. Which answers can be servers is the core's
// to say. A [Resolver] may be used by several goroutines.
package resolve
