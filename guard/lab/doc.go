// Package lab is a network in namespaces: a host to be guarded, and everything
// that the story of a harvest needs. `ntpveil demo` and the kernel tests run in
// it. It is built by netlink alone and needs no program but this one.
//
//	                 dns 2001:db8:53::53       s1 2001:db8:101::123
//	                     │                     s2 2001:db8:102::123 ...
//	host ── eth0 ── router ── harvester 2001:db8:2016::123 ─ ─ tells
//	2001:db8:1::/64      │    scanner   2001:db8:5ca::5ca  ◄ ─ ┘
//	                     └─── visitor   2001:db8:717::717
//
// Each node has a /48 of its own (and an IPv4 /24), a cable to the router, which
// is fe80::1 on each, and one device, eth0, of which the router's end is named
// "to-" and the node. The host makes its address itself from the router's
// advertisements, with a real duplicate-address check; those of all others stand
// at once. A lab is ready about 1.1 s after New.
//
// # In a test
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) }
//
//	l := lab.ForTest(t, lab.Options{Servers: 3})
//	l.Server(1).OnArrival(func(q lab.Query) { ... })      // before the answer
//	l.Server(2).Answer(lab.Offset(time.Hour))
//	out, err := l.Host.Command(ctx, "ntpveil", "daemon").CombinedOutput()
//
// Main, and Enter for main, run the program again in namespaces of its own. No
// other hook is needed: programs in nodes are started directly, by a thread that
// stands in the node's namespaces.
//
// # Guarantees
//
//   - Nothing outside changes: neither interfaces nor firewall nor mounts, and no
//     program in a node can move the machine's clock.
//   - Nothing stays: namespaces have no names, files lie in a temporary directory
//     that Close removes, and every program is killed by the kernel when this
//     process ends, however it does.
//   - Without root it works wherever user namespaces do; where they do not,
//     ErrForbidden says which switch is in the way.
//
// # Concurrency
//
// Whatever is done in a node's namespace is done on a thread that ends
// afterwards; no other goroutine ever runs there. Methods may be called by
// several goroutines at once, but for Add and Close. Hooks and answers are called
// by the server's own goroutines, one for each of its addresses.
package lab
