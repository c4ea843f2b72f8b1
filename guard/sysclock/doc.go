// Package sysclock corrects the host's clock by clock_adjtime(2), or pretends to.
//
// Phase goes only by means that end by themselves: a step (ADJ_SETOFFSET), or
// ADJ_OFFSET under STA_PLL, which the kernel lets decay. A process that is killed
// leaves no drift behind. A [Clock] is used by one goroutine.
package sysclock
