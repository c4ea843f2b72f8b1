//go:build race

package timeworld

// raced says that the race detector is on: it makes the worlds ten times slower,
// and the core has no goroutine that it could watch.
const raced = true
