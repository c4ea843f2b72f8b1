// Package sysclock corrects the host's clock by clock_adjtime(2), or pretends to.
//
// Guarantees:
//   - Phase goes only by means that end by themselves: a step (ADJ_SETOFFSET), or
//     ADJ_OFFSET under STA_PLL, which the kernel lets decay and which does not touch
//     the frequency (STA_FREQHOLD). ADJ_FREQUENCY carries what was learnt of the
//     crystal alone: a program that is killed leaves no other drift behind.
//   - A correction is one system call: all of it happens, or none. Before the first
//     one the slew ends that another program began by adjtime(3), as openntpd does.
//   - The frequency is all that the kernel makes its clock faster by, ADJ_TICK included,
//     which goes back to what it is by nature.
//   - Where the frequency is not as it was left, another program steers the clock:
//     it is left to that one, with an error.
//   - No step lands before the floor that the clock was made with, and no slew is
//     longer than the kernel takes: such a wish is an error and touches nothing.
//   - What is saved goes back only where the caller knows that the clock is right.
//     No link is followed, nothing but a regular file is touched, no directory made.
//   - Where the hardware clock holds local time the kernel's stays marked as not
//     synchronised, so that no UTC is written there.
//   - A leap second is armed only on the day at whose end it can come, whatever
//     the servers say earlier: the kernel knows no other day than the current one.
//
// [Now] is the one place where the daemon asks for the time. A [Clock] is used by
// one goroutine, but for Save.
package sysclock
