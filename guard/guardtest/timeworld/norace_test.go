//go:build !race

package timeworld

const raced = false
