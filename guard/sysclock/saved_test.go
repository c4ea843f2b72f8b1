package sysclock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/guardtest"
)

// files are those of a host in a directory of the test's, none of which is there.
func files(t *testing.T) Files {
	dir := t.TempDir()
	return Files{Saved: filepath.Join(dir, "clock"), Epoch: filepath.Join(dir, "clock-epoch"),
		Synced: filepath.Join(dir, "synchronized"), Adjtime: filepath.Join(dir, "adjtime")}
}

// quiet is a kernel that takes everything, and was never told to be believed.
func quiet(tx *unix.Timex) (int, error) {
	tx.Tick, tx.Status = nominalTick, unix.STA_UNSYNC
	return 0, nil
}

func place(t *testing.T, path, text string, at time.Time) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, at, at)); err != nil {
		t.Fatal(err)
	}
}

func TestTheClockIsSaved(t *testing.T) {
	guardtest.ConformSave(t, func(t *testing.T, ahead *time.Duration) guardtest.SaveBench {
		c := New(quiet, build)
		c.Files = files(t)
		if ahead != nil {
			place(t, c.Files.Saved, "", time.Now().Add(*ahead))
		}
		return guardtest.SaveBench{Clock: c, Now: time.Now, Told: func() bool {
			_, err := os.Lstat(c.Files.Synced)
			return err == nil
		}}
	})
}

func TestWhatWasSavedIsFound(t *testing.T) {
	c := New(quiet, build)
	if seen := c.Look(); !seen.Saved.IsZero() || !seen.Epoch.IsZero() || seen.Err != nil {
		t.Errorf("without files: %+v", seen)
	}
	c.Files = files(t)
	if seen := c.Look(); !seen.Saved.IsZero() || !seen.Epoch.IsZero() || seen.Err != nil {
		t.Errorf("before anything was saved: %+v", seen)
	}
	place(t, c.Files.Saved, "", may)
	place(t, c.Files.Epoch, "", build)
	if seen := c.Look(); !seen.Saved.Equal(may) || !seen.Epoch.Equal(build) || seen.Synced || seen.Err != nil {
		t.Errorf("%+v", seen)
	}
	place(t, c.Files.Synced, "", may)
	if seen := c.Look(); !seen.Synced || seen.Right {
		t.Error("another time daemon synchronised it in this boot")
	}
}

// TestOnlyOurFileIsTouched: whoever owns the directory could have root touch any
// file, or wait for ever.
func TestOnlyOurFileIsTouched(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(path, elsewhere string) error
		want string
	}{
		"a link":             {func(path, elsewhere string) error { return os.Symlink(elsewhere, path) }, "too many levels of symbolic links"},
		"a link to nothing":  {func(path, elsewhere string) error { return os.Symlink(elsewhere+"-not", path) }, "too many levels of symbolic links"},
		"a pipe":             {func(path, _ string) error { return unix.Mkfifo(path, 0o600) }, "no such device or address"},
		"a directory":        {func(path, _ string) error { return os.Mkdir(path, 0o700) }, "is a directory"},
		"a device":           {func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }, "is no regular file"},
		"no directory there": {func(path, _ string) error { return os.Remove(filepath.Dir(path)) }, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			place(t, elsewhere, "theirs", may)
			c := New(quiet, build)
			c.Files = files(t)
			if err := tt.make(c.Files.Saved, elsewhere); errors.Is(err, unix.EPERM) {
				return // no devices in a user namespace: nobody can have placed one either
			} else if err != nil {
				t.Fatal(err)
			}
			seen := c.Save(guard.Save{Key: 1, Synced: name != "no directory there"})
			if seen.Err == nil || !strings.HasPrefix(seen.Err.Error(), "save clock: ") || !strings.Contains(seen.Err.Error(), tt.want) {
				t.Errorf("%v", seen.Err)
			}
			if info, err := os.Stat(elsewhere); err != nil || !info.ModTime().Equal(may) {
				t.Errorf("the file behind the link was touched at %s, %v", info.ModTime(), err)
			}
			if _, err := os.Stat(elsewhere + "-not"); err == nil {
				t.Error("a file was made behind a link")
			}
			if _, err := os.Stat(filepath.Dir(c.Files.Saved)); (err == nil) == (name == "no directory there") {
				t.Errorf("the directory: %v", err)
			}
			if before := c.Look(); !before.Saved.IsZero() || (before.Err == nil) != (name == "no directory there") {
				t.Errorf("believed: %+v", before)
			}
		})
	}
}

// TestWhatRootMakesIsTheServices: it could not touch a file of root's later.
func TestWhatRootMakesIsTheServices(t *testing.T) {
	c := New(quiet, build)
	c.Files = files(t)
	const service = 65534
	if err := os.Chown(filepath.Dir(c.Files.Saved), service, service); err != nil {
		t.Skipf("giving a directory away takes root: %v", err)
	}
	if seen := c.Save(guard.Save{Key: 1, Synced: true}); seen.Err != nil {
		t.Fatal(seen.Err)
	}
	for _, path := range []string{c.Files.Saved, c.Files.Synced} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Uid != service || st.Gid != service {
			t.Errorf("%s belongs to %d:%d, %v", path, st.Uid, st.Gid, err)
		}
	}
}

func TestNothingIsSavedWithoutFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	if seen := New(quiet, build).Save(guard.Save{Key: 1, Synced: true}); seen != (guard.Saved{Key: 1}) {
		t.Errorf("%+v", seen)
	}
	c := New(quiet, build)
	c.Files = files(t)
	if seen := (Observer{c}).Save(guard.Save{Key: 2, Synced: true}); seen != (guard.Saved{Key: 2}) {
		t.Errorf("%+v", seen)
	}
	if _, err := os.Lstat(c.Files.Saved); err == nil {
		t.Error("who observes saved the clock")
	}
}
