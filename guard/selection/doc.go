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
//
// What no vote can do: three that collude outvote one that is honest. Which
// servers are asked, and that two of one /64 are one voice, is decided before.
package selection
