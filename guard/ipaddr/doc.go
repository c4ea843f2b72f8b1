// Package ipaddr makes throw-away IPv6 addresses by netlink, has the gateway
// meet them, and reads what the core needs to know of the host.
//
// # Guarantees
//
// A throw-away address is a /128 without a prefix route, born deprecated
// (preferred lifetime 0) with a finite valid lifetime. No program is given it as
// a source unless it binds it by name, and the kernel removes it in time,
// whoever is alive then. [Stack.Set] removes only what it was once asked for. An
// address that vanished is not put back.
//
// An address is ready when duplicate address detection is over and the gateway
// has answered a neighbour solicitation from it: until then the gateway would
// resolve it in the middle of the first exchange, on the way back only, which
// costs one round trip of the link (42 ms of offset where multicast takes 80 ms).
// A gateway that does not answer three solicitations, a second apart, is waited
// for no longer.
//
// A duplicate shows as absence: the kernel deletes an address with a finite
// lifetime whose detection fails.
//
// # Network namespaces
//
// A Stack works in one network namespace, of which it is given a file
// descriptor. All sockets are opened once, by [Open]. What has to be read from
// /proc in another namespace is read by a goroutine whose thread enters it and
// then ends: a thread that came back could not be told from one that did not.
//
// # Concurrency
//
// All methods may be called from any goroutine. One goroutine of the Stack waits
// for changes, one for neighbour advertisements, and one moves addresses from
// tentative to ready; [Stack.Close] ends them. Messages of the kernel are taken
// as hints only, and the state is read anew, so that nothing hangs on a message
// that was lost.
package ipaddr
