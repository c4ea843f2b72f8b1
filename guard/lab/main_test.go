package lab_test

import (
	"os"
	"testing"

	"ntpveil/guard/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m.Run)) } //nolint:forbidigo // this is the main of the tests
