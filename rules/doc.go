// Package rules holds presets and the rule set that they compile to.
//
// It is pure: a rule set is a value, [Shield], that prints itself as nft text.
// Package nft translates the same value to netlink; a test against a real kernel
// compares the two.
package rules
