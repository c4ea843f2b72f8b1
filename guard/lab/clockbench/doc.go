// Package clockbench measures how well ntpveil, and a real chronyd beside it, know
// the time: `make bench-clock`.
//
// A world is one host of a lab, and servers that all tell the same untrue time:
// the machine's own, and a trajectory (30 ms, 20 ppm, a frequency that wanders and
// sometimes leaps). Between host and servers a relay delays, jitters, reorders and
// loses what they send, as a profile says. In the host run the programs:
//
//	ntpveil   daemon --observe-clock: the whole servo, against its virtual clock;
//	          asked for clock.offset_s of its status
//	chronyd   -x, which has a virtual clock too; asked for "System time" of
//	          `chronyc tracking`
//	PLL       what systemd-timesyncd makes of one server: its samples, and the
//	          kernel's PLL with the constant that it sets
//	last      control: the last sample of one server, held
//	zero      control: the machine's clock is right
//
// All are asked at the same instants, which are drawn at random, and are scored by
// what they report minus what is true. Everything is drawn from seeds, of which
// all programs of a world share one. Nobody's clock is moved, and time is the real
// one: a run takes as long as it says.
//
// ntpsec is not among them. With `disable ntp`, the only way to keep its hands off
// the clock, its loop is not run at all, and with the loop it steers the kernel's
// one clock: it has none that could be asked.
//
// # What makes the truth exact
//
// A packet's arrival at the servers is what the kernel stamped. The way there is
// not waited for but added to that; the way back is waited for, and by how much
// the timer was late counts as the server's own time: its transmit timestamp
// is made when the answer leaves, less the delay of the way back. So no timer is in an
// offset, and neither is the call that sends, but for what of it cannot be foretold.
// What is left is in the floor: a run without jitter and wandering. On a machine that
// is busy otherwise the floor is what it should be under `nice -n -15`.
//
// # In a table
//
// RMS, p50 and p99 are of all errors of a profile from five minutes on. The ratio is the
// geometric mean over the seeds of one program's RMS to the other's, in the same
// world, with its 95 % interval by Student's distribution of the logarithms.
// Usable is the time from the start of a program until its first estimate of which
// it says that MinAgree servers agree, and which is within its root distance.
package clockbench
