// Package selection judges samples: distances, votes, combining, kiss-o'-death.
//
// It is pure: values in, values out, no clock, no state; calls from several
// goroutines do not meet. RFC 5905 sections 8 and 11 give the words. Every field of
// a sample comes from a server that may be hostile: any value is bearable.
//
// What holds, whatever the samples are:
//
//   - The order of the candidates changes nothing.
//   - Nothing is agreed on by fewer than minAgree, nor by half of the usable or less.
//   - As long as most of the usable tell the truth (their intervals hold the true
//     offset), the combined offset lies within what their intervals span, and the
//     true offset within Error of it.
//   - Where the agreeing intervals share one stretch, the combined offset lies in it.
//   - A server that claims a tiny root distance gains no more than the others leave
//     open: the combined offset stays within the interval that they share with it.
//   - A truechimer that is far from where the others are close together is not
//     combined, where enough are left: minAgree, three, and more than half of the
//     usable. The error and the leap second remain those of all truechimers. (With
//     three servers 10 ms away and one on a long, lopsided way the combined offset
//     is off by 0.4 to 0.85 of what it is with it, the clock by 0.5 to 1.)
//
// There is no filter over several samples of one server (RFC 5905 section 10): each
// vote is on the last ones, whose intervals grow with their delays. The clock goes
// by package servo, which is given every sample and weighs it by its delay: over
// jitter of 1 to 20 ms and polls of 64 to 2048 s its error is less than half, and
// mostly a quarter, of that of a vote on the best of eight. A filter would narrow the
// root distance, by 37 % at 64 s over 20 ms of jitter and by hardly anything above
// 1000 s, for at 15 ppm what is old may have drifted farther than the jitter is wide;
// and it would have the vote hang on samples from before a step or a change of network.
//
// What no vote can do: three that collude outvote one that is honest. Which
// servers are asked, and that two of one /64 are one voice, is decided before.
package selection
