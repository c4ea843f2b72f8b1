// Package config makes a checked configuration of TOML text.
//
// It is strict: an unknown key is an error. Every error is told at once, each
// with file, line and column. Checking reads the files and touches nothing else.
// One table (keys.go) holds every key: how it is read, checked and printed.
package config
