// Package timeworld is a world in virtual time for the core: kernel, addresses
// and ledger come true at once, but the clock, the ways to the servers and the
// servers are those of life. Days pass in a second. Nothing but tests imports it.
//
// # What is modelled
//
//	oscillator.go  a crystal: frequency, random walk of the frequency, warming up and cooling down
//	clock.go       the kernel's clock on top of it: step, frequency, and a slew by the PLL, second by second
//	way.go         the way to a server: least delays, queues, asymmetry, loss, rising load, several lanes
//	server.go      servers that tell the truth, err, lie alone or together, drag, step, announce a leap, die
//	world.go       the core in it: its plan comes true, its samples are taken of the clock as it then is
//	trace.go       what became of the clock, by the truth that only the world knows
//	reference.go   what the core is compared to, on the same crystal, through the same ways, at the same polls
//	scenario.go    scripts in, summaries out
//
// Everything follows from the seed: the crystal from one stream of numbers, each
// exchange from one of its own, so that what is done to the clock changes neither.
//
// [World] and [Replay] are not safe for concurrent use; worlds do not meet.
package timeworld
