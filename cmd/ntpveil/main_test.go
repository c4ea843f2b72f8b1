package main

import (
	"os"
	"testing"

	"ntpveil/guard/lab"
)

// asProgram makes the test binary the program itself, to be run in the nodes of
// a lab: no other binary has to be built, and it has the race detector in it.
const asProgram = "NTPVEIL_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(lab.Main(m.Run))
}
