//go:build !race

package guardtest

const raced = false
