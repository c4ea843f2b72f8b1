package sysclock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

// Files are where the clock is kept over a reboot, and what is read about it. An
// empty path: nothing is kept, or read.
type Files struct {
	Saved   string // its mtime is when the clock was last saved
	Epoch   string // its mtime is certainly past
	Synced  string // there as soon as the clock was synchronised in this boot
	Adjtime string // adjtime_config(5)
}

// System are the files of systemd: those of its timesyncd, so that a host that
// goes from one to the other keeps its saved clock, and systemd-time-wait-sync
// finds what it waits for.
var System = Files{
	Saved: "/var/lib/systemd/timesync/clock", Epoch: "/usr/lib/clock-epoch",
	Synced: "/run/systemd/timesync/synchronized", Adjtime: "/etc/adjtime",
}

// before is what was saved before this run; a time is zero where there is no file.
func (f Files) before() (saved, epoch time.Time, err error) {
	saved, errS := mtime(f.Saved, os.Lstat)
	epoch, errE := mtime(f.Epoch, os.Stat)
	return saved, epoch, errors.Join(errS, errE)
}

// synced reports whether the clock was synchronised in this boot.
func (f Files) synced() bool {
	_, err := os.Lstat(f.Synced)
	return f.Synced != "" && err == nil
}

func mtime(path string, stat func(string) (fs.FileInfo, error)) (time.Time, error) {
	if path == "" {
		return time.Time{}, nil
	}
	info, err := stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("read saved clock: %w", err)
	case !info.Mode().IsRegular():
		return time.Time{}, fmt.Errorf("read saved clock: %s is no regular file", path)
	}
	return info.ModTime(), nil
}

// Save keeps the time: a clock that was saved ahead of it goes back only where
// this one is synchronised. It makes files, but never a directory.
func (c *Clock) Save(s guard.Save) guard.Saved {
	err := touch(c.Files.Saved, s.Synced)
	if s.Synced {
		err = errors.Join(err, touch(c.Files.Synced, true))
	}
	if err != nil {
		err = fmt.Errorf("save clock: %w", err)
	}
	return guard.Saved{Key: s.Key, Err: err}
}

// touch sets a file's mtime to now, and makes it if it is not there. The directory
// may be another user's, and root may run this: a link is not followed, and what is
// no regular file is left alone.
func touch(path string, back bool) error {
	if path == "" {
		return nil
	}
	f, err := openOrMake(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", path)
	case !back && info.ModTime().After(time.Now()):
		return nil
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "touch", Path: path, Err: err}
	}
	return nil
}

// openOrMake opens a file, or makes one that belongs to whom its directory belongs
// to: of a daemon that root starts by hand, too, the service can go on with it.
func openOrMake(path string) (*os.File, error) {
	const plain = os.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, plain, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if f, err = os.OpenFile(path, plain|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return nil, err
	}
	var owner unix.Stat_t
	if os.Geteuid() == 0 && unix.Stat(filepath.Dir(path), &owner) == nil {
		_ = f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return f, nil
}
