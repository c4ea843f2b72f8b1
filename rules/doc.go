// Package rules holds presets and the rule set that they compile to.
//
// A preset ([ReadPresets], files in presets/) and facts of a host make a [Shield];
// [Compile] makes its table. A stranger's packet is looked up in a few sets (sieve, in
// compile.go); only one that is found meets the rules that say what passes all the same,
// and is counted. What the kernel learns by itself (learn.go) it learns
// from packets, which anybody can forge: only from client packets in the original
// direction of a connection, sent by users of time daemons, or from inside to
// outside and at a rate for each host.
//
// It is pure: a rule set is a value, [Shield], that prints itself as nft text.
// Package nft translates the same value to netlink; a test against a real kernel
// compares the two.
package rules
