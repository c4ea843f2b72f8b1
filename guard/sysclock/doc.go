// Package sysclock corrects the host's clock by clock_adjtime(2), or pretends to.
//
// Guarantees:
//   - Phase goes only by means that end by themselves: a step (ADJ_SETOFFSET), or
//     ADJ_OFFSET under STA_PLL, which the kernel lets decay. The frequency is held
//     (STA_FREQHOLD): a program that is killed leaves no drift behind.
//   - A correction is one system call: all of it happens, or none.
//   - No step lands before the floor that the clock was made with, and no slew is
//     longer than the kernel takes: such a wish is an error and touches nothing.
//   - A leap second is armed only on the day at whose end it can come, whatever
//     the servers say earlier: the kernel knows no other day than the current one.
//
// [Now] is the one place where the daemon asks for the time. A [Clock] is used by
// one goroutine.
package sysclock
