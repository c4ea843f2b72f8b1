// Package guardtest holds in-memory models of the adapters that print themselves
// as text, the conformance suites that models and adapters share, and the random
// world that the core is judged by. Nothing but tests imports it.
package guardtest
