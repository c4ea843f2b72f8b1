package lab

import (
	"context"
	"errors"
	"time"
)

// TB is what ForTest needs of a testing.TB.
type TB interface {
	Helper()
	Context() context.Context
	Skip(...any)
	Fatal(...any)
	Cleanup(func())
}

// ForTest is New for a test: it ends the test where the lab cannot be built,
// skips it where namespaces are forbidden, and closes the lab after it. The
// test's TestMain goes through Main.
func ForTest(t TB, o Options) *Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l, err := New(ctx, o)
	if errors.Is(err, ErrForbidden) {
		t.Skip("needs namespaces (root, or unshare -rn):", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}
