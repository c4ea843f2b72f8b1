// Package regular opens the files that an admin names. What is no regular file it
// refuses at once: it neither waits for the other end of a pipe nor opens a device.
package regular

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// ErrNotFile is the error of what is no regular file.
var ErrNotFile = errors.New("not a regular file")

// Open opens a regular file, or fails with an error of type *fs.PathError.
func Open(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, refused(path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // should it be replaced by a pipe meanwhile
	if err != nil {
		return nil, err
	}
	if st, err = f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, refused(path)
	}
	return f, nil
}

func refused(path string) error { return &fs.PathError{Op: "open", Path: path, Err: ErrNotFile} }
