package regular

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestOpen: what is no regular file is told at once, and never opened.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.WriteFile(file, []byte("some"), 0o600), syscall.Mkfifo(pipe, 0o600), os.Symlink(pipe, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	f, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "some" {
		t.Errorf("%q, %v", b, err)
	}
	for _, path := range []string{pipe, filepath.Join(dir, "link"), dir, "/dev/null"} {
		_, err := Open(path)
		var bad *fs.PathError
		if !errors.Is(err, ErrNotFile) || !errors.As(err, &bad) || bad.Path != path {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
