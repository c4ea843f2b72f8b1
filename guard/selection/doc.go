// Package selection judges samples: distances, votes, combining, kiss-o'-death.
//
// It is pure: values in, values out, no clock, no state. RFC 5905 sections 8 and
// 11 give the words.
package selection
