package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const schema = 1

// ownerOnly is the mode of the file: keys and cookies are in it.
const ownerOnly = 0o600

// locate follows symbolic links, so that what is renamed is the file and not the
// link, and makes the directory where there is none.
func locate(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return real, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", errors.New("it is a symbolic link to nothing")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// openStore opens the file, or begins one. The directory is locked meanwhile:
// two processes that start together must not both put a file aside.
func openStore(path string) (*store, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := lock(dir); err != nil {
		return nil, err
	}
	defer unix.Flock(int(dir.Fd()), unix.LOCK_UN)
	s, damage, err := existing(path)
	if err != nil || s != nil {
		return s, err
	}
	var lost error
	if damage != nil {
		kept, err := aside(path)
		if err != nil {
			return nil, errors.Join(damage, err)
		}
		lost = fmt.Errorf("read ledger %s: %w; it is kept as %s and a fresh one was begun", path, damage, kept)
	}
	if s, err = begin(path, dir); err != nil {
		return nil, errors.Join(lost, err)
	}
	s.lost = lost
	return s, nil
}

func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// existing opens the file that is there. None of the three: there is none.
func existing(path string) (s *store, damage, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errIrregular
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = errIrregular
	}
	if err == nil {
		err = lock(f)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	if damage := check(f, info.Size()); damage != nil {
		return nil, damage, f.Close()
	}
	if info.Mode().Perm()&^ownerOnly != 0 {
		if err := f.Chmod(ownerOnly); err != nil {
			f.Close()
			return nil, nil, err
		}
	}
	return open(f, info.ModTime(), func(db *bolt.DB) error { return recognise(db) })
}

// open has bbolt take a file over that was checked and locked.
func open(f *os.File, written time.Time, first func(*bolt.DB) error) (s *store, damage, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			f.Close()
			s, damage, err = nil, fmt.Errorf("%v", p), nil
		}
	}()
	db, err := bolt.Open(f.Name(), ownerOnly, &bolt.Options{
		FreelistType: bolt.FreelistMapType,
		Timeout:      time.Second, // it is locked already
		OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return f, nil },
	})
	if err != nil {
		return nil, nil, err
	}
	s = &store{db: db, file: f, before: written, opened: time.Now()}
	if err := first(db); err != nil {
		db.Close()
		if errors.Is(err, errForeign) {
			return nil, err, nil
		}
		return nil, nil, err
	}
	_ = db.View(func(tx *bolt.Tx) error { s.count = tally(tx); return nil })
	if s.seen, err = f.Stat(); err != nil {
		db.Close()
		return nil, nil, err
	}
	return s, nil, nil
}

var (
	errForeign   = errors.New("it is no ledger")
	errIrregular = errors.New("it is not a regular file")
)

// recognise looks whether a file is a ledger of ours, and adds what its first
// version had not.
func recognise(db *bolt.DB) error {
	lacks := false
	err := db.View(func(tx *bolt.Tx) error {
		lacks = tx.Bucket([]byte(keys)) == nil
		return known(tx)
	})
	if err != nil || !lacks {
		return err
	}
	return db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte(keys))
		return err
	})
}

// known checks the schema of an existing ledger.
func known(tx *bolt.Tx) error {
	for _, b := range buckets {
		if b == keys {
			continue
		}
		if tx.Bucket([]byte(b)) == nil {
			return fmt.Errorf("%w: it has no bucket %q", errForeign, b)
		}
	}
	version, err := strconv.Atoi(string(tx.Bucket([]byte(about)).Get([]byte("schema"))))
	switch {
	case err != nil || version < 1:
		return fmt.Errorf("%w: it has no schema", errForeign)
	case version > schema:
		return fmt.Errorf("%w: its schema is %d, this version knows %d", ErrNewer, version, schema)
	}
	return nil
}

// begin makes a fresh ledger. It gets its name when it is complete and on disk.
func begin(path string, dir *os.File) (*store, error) {
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(draft, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, ownerOnly)
	if err != nil {
		return nil, err
	}
	give(f, dir)
	s, damage, err := open(f, time.Now(), func(db *bolt.DB) error { return db.Update(found) })
	if err = errors.Join(damage, err); err == nil {
		if err = errors.Join(os.Rename(draft, path), dir.Sync()); err == nil {
			return s, nil
		}
		s.db.Close()
	}
	os.Remove(draft)
	return nil, err
}

// give makes the owner of the directory that of the file. Where root began a
// ledger by hand, the service, which is not root, could never open it. Where it
// cannot be given away the ledger works all the same for who is here now.
func give(f, dir *os.File) {
	var owner unix.Stat_t
	if os.Geteuid() == 0 && unix.Fstat(int(dir.Fd()), &owner) == nil {
		_ = f.Chown(int(owner.Uid), int(owner.Gid))
	}
}

// found fills an empty ledger.
func found(tx *bolt.Tx) error {
	for _, b := range buckets {
		if _, err := tx.CreateBucket([]byte(b)); err != nil {
			return err
		}
	}
	return tx.Bucket([]byte(about)).Put([]byte("schema"), []byte(strconv.Itoa(schema)))
}

// aside renames a damaged file, to a name that nobody has. It looks for itself
// that this is a regular file: a device that root renames is gone for everybody.
func aside(path string) (string, error) {
	if st, err := os.Lstat(path); err != nil {
		return "", err
	} else if !st.Mode().IsRegular() {
		return "", errIrregular
	}
	base := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
	for n, kept := 1, base; ; n, kept = n+1, fmt.Sprintf("%s.%d", base, n) {
		if _, err := os.Lstat(kept); err == nil {
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		return kept, os.Rename(path, kept)
	}
}
