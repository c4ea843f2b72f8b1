// Package servo learns how a clock goes from samples of several servers, and says
// what to do about it: by how much it is off, and how fast it loses.
//
// The clock is modelled by two states, phase and frequency, of which the
// frequency wanders at random (Zucca and Tavella 2005, "The clock model and its
// relationship with the Allan and related variances"), and each server by a bias,
// the asymmetry of the way to it. A Kalman filter follows all of them at once. How
// restless the clock is, and what a delay tells of an offset, nobody knows
// beforehand: several filters, one an assumption, run side by side and are weighed
// by how well each foretells the samples (interacting multiple models, Blom and
// Bar-Shalom 1988). Where one direction is loaded, late packets tell how late they
// were, and what all ways suffer alike is not averaged away (tilt, queued). What it
// gains over one fixed loop is measured in TestBeatsFixedLoop, and in TestUpload.
//
// It is pure: values in, values out, no clock, no goroutine; not safe for
// concurrent use. Samples are taken of the disciplined clock. What is done to that
// one is told by Steer and Step, so that the filters see the raw clock below it,
// which no correction of ours disturbs.
//
// What holds:
//
//   - Any reading is bearable; estimates are always finite, the frequency within
//     MaxFreq.
//   - Memory is bounded: maxServers servers, maxDelays delays of each.
//   - A phase that is known anew (Restart) keeps the frequency.
package servo
