package ledger

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
	"ntpveil/guard/guardtest"
)

var _ daemon.Ledger = (*Ledger)(nil)

// TestMain is also the child of tests that need a process of their own.
func TestMain(m *testing.M) {
	switch os.Getenv("LEDGER_CHILD") {
	case "write":
		writeUntilKilled(os.Getenv("LEDGER_PATH"))
	case "full":
		os.Exit(fullDisk(os.Getenv("LEDGER_PATH")))
	}
	os.Exit(m.Run())
}

// child starts this program again, as one of the above.
func child(t *testing.T, what, path string, flags uintptr) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LEDGER_CHILD="+what, "LEDGER_PATH="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd
}

var at = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// exposure is the nth of a test; its guard ends n seconds after at.
func exposure(n int) guard.Record {
	a := netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 8: 0xc0, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	end := at.Add(time.Duration(n) * time.Second)
	return guard.Record{Key: guard.Key(n), Kind: guard.KindExposure, At: at, Exposure: &guard.ExposureRecord{
		Addr: a, Link: 2, Interface: "eth0", Kind: "throw-away", Server: netip.MustParseAddr("2001:db8:101::1"), Port: 40000,
		AskedAt: end.Add(-25 * time.Hour), ExistsUntil: end.Add(-24 * time.Hour), GuardedUntil: end}}
}

func exposuresOf(from, to int) []guard.Record {
	var out []guard.Record
	for n := from; n < to; n++ {
		out = append(out, exposure(n))
	}
	return out
}

func open1(t testing.TB, path string) *Ledger {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kept are the files that were put aside.
func kept(t testing.TB, path string) []string {
	t.Helper()
	found, err := filepath.Glob(path + ".corrupt-*")
	do(t, err)
	return found
}

func TestLedger(t *testing.T) {
	guardtest.LedgerSuite(t, func(t *testing.T) guardtest.LedgerBench {
		path := filepath.Join(t.TempDir(), "ledger.db")
		l := open1(t, path)
		reopen := func() daemon.Ledger {
			do(t, l.Close())
			l = open1(t, path)
			return l
		}
		return guardtest.LedgerBench{Ledger: l, Reopen: reopen, Damage: func() daemon.Ledger {
			do(t, l.Close())
			do(t, os.Truncate(path, 5000))
			return reopen()
		}}
	})
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	old := syscall.Umask(0)
	open1(t, filepath.Join(dir, "ledger.db"))
	syscall.Umask(old)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "ledger.db"): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, error %v", path, st.Mode(), err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// TestALedgerOfTheFirstVersion had no keys in it, and may have been opened to
// others since: it is taken over with all that it has, and closed to them.
func TestALedgerOfTheFirstVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open1(t, path)
	do(t, l.Write(exposuresOf(0, 3)))
	do(t, l.store.db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte(keys)) }))
	do(t, l.Close())
	do(t, os.Chmod(path, 0o644))
	l = open1(t, path)
	do(t, l.Write([]guard.Record{{Kind: guard.KindKeys, At: at, NTS: &guard.NTSRecord{Name: "nts.example:4460", Cookies: []guard.Secret{guard.Secret("c")}}}}))
	s, err := l.Load()
	if err != nil || len(s.Exposures) != 3 || len(s.NTS) != 1 || string(s.NTS[0].Cookies[0]) != "c" || len(kept(t, path)) != 0 {
		t.Errorf("loaded %+v, error %v, put aside %v", s, err, kept(t, path))
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", st.Mode(), err)
	}
}

// writeUntilKilled says every number that Write returned for.
func writeUntilKilled(path string) {
	l, err := Open(path)
	for n := 0; err == nil; n++ {
		if err = l.Write([]guard.Record{exposure(n)}); err == nil {
			fmt.Println(n)
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// TestBegunByRoot: what root begins by hand the service's own user can open.
func TestBegunByRoot(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Skipf("needs root, and not that of a user namespace: %v", err)
	}
	path := filepath.Join(dir, "ledger.db")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if owner := st.Sys().(*syscall.Stat_t); owner.Uid != 65534 || owner.Gid != 65534 || st.Mode().Perm() != 0o600 {
		t.Errorf("owner %d:%d, mode %s", owner.Uid, owner.Gid, st.Mode())
	}
}

// TestKillLosesNothing: after kill -9 everything is there that Write returned for.
func TestKillLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	for _, writes := range []int{1, 2, 7, 60} {
		cmd := child(t, "write", path, 0)
		out, err := cmd.StdoutPipe()
		do(t, err)
		do(t, cmd.Start())
		said, lines := 0, bufio.NewScanner(out)
		for lines.Scan() {
			if lines.Text() != fmt.Sprint(said) {
				t.Fatalf("the writer said %q", lines.Text())
			}
			if said++; said == writes {
				do(t, cmd.Process.Kill()) // what it says until it is dead counts as well
			}
		}
		_ = cmd.Wait()
		l := open1(t, path)
		s, err := l.Load()
		do(t, err)
		do(t, l.Close())
		if len(s.Exposures) < said || said < writes {
			t.Fatalf("%d were written, %d are there", said, len(s.Exposures))
		}
	}
}

// TestNothingUnsynced: the promise of Write is bbolt's fdatasync.
func TestNothingUnsynced(t *testing.T) {
	l := open1(t, filepath.Join(t.TempDir(), "ledger.db"))
	if l.store.db.NoSync || l.store.db.NoGrowSync || l.store.db.NoFreelistSync {
		t.Error("bbolt does not sync")
	}
}

// TestRefused uses a device node of its own, never one that others use: a fault in
// what is tested here must not reach them.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	do(t, os.Mkdir(in("dir"), 0o700))
	do(t, os.Symlink(in("nothing"), in("dangling")))
	do(t, syscall.Mkfifo(in("fifo"), 0o600))
	do(t, os.WriteFile(in("file"), nil, 0o600))
	do(t, os.Symlink(in("fifo"), in("link")))
	wants := map[string]string{"dir": "not a regular file", "fifo": "not a regular file", "link": "not a regular file",
		"dangling": "a symbolic link to nothing", "file/ledger.db": "not a directory"}
	switch err := syscall.Mknod(in("device"), syscall.S_IFCHR|0o666, 1<<8|3); { // as /dev/null is
	case err == nil:
		wants["device"] = "not a regular file"
	case !errors.Is(err, syscall.EPERM): // only root makes one, and not that of a user namespace
		t.Fatal(err)
	}
	before := names(t, dir)
	for name, want := range wants {
		if l, err := Open(in(name)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), in(name)) {
			t.Errorf("%s: %v, error %v", name, l, err)
		}
	}
	if after := names(t, dir); after != before {
		t.Errorf("there were %s\nthere are %s", before, after)
	}
}

// TestAsideIsForFiles: what is no file is not renamed, whoever asks for it.
func TestAsideIsForFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	do(t, syscall.Mkfifo(path, 0o600))
	if name, err := aside(path); !errors.Is(err, errIrregular) || len(kept(t, path)) != 0 {
		t.Errorf("renamed to %q, error %v", name, err)
	}
}

// names are what is in a directory, with types.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	do(t, err)
	return fmt.Sprint(entries)
}

// TestLink: a link stays one, and what it leads to is what is renamed.
func TestLink(t *testing.T) {
	link, path := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "ledger.db")
	do(t, os.WriteFile(path, []byte("no ledger"), 0o600))
	do(t, os.Symlink(path, link))
	do(t, open1(t, link).Write(exposuresOf(0, 1)))
	if st, err := os.Lstat(link); err != nil || st.Mode()&os.ModeSymlink == 0 || len(kept(t, path)) != 1 {
		t.Errorf("link %v, error %v, kept %v", st, err, kept(t, path))
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open1(t, path)
	do(t, l.Write(exposuresOf(0, 1)))
	for range 2 {
		if _, err := Open(path); !errors.Is(err, ErrLocked) {
			t.Errorf("opened twice: %v", err)
		}
	}
	do(t, l.Write(exposuresOf(1, 2)))
	do(t, l.Close())
	open1(t, path)
}

func TestSchema(t *testing.T) {
	for version, newer := range map[string]bool{"2": true, "77": true, "": false, "one": false, "0": false, "-1": false} {
		path := filepath.Join(t.TempDir(), "ledger.db")
		l := open1(t, path)
		do(t, l.store.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(about)).Put([]byte("schema"), []byte(version)) }))
		do(t, l.Close())
		before, err := os.ReadFile(path)
		do(t, err)
		l, err = Open(path)
		if newer {
			after, _ := os.ReadFile(path)
			if !errors.Is(err, ErrNewer) || string(before) != string(after) || len(kept(t, path)) != 0 {
				t.Errorf("schema %q: error %v", version, err)
			}
			continue
		}
		if err != nil || len(kept(t, path)) != 1 {
			t.Errorf("schema %q: error %v, kept %v", version, err, kept(t, path))
		}
		do(t, l.Close())
	}
}

// TestStarted: a draft of a run that was killed at its start is in nobody's way.
func TestStarted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	do(t, os.WriteFile(path+".new", []byte("half"), 0o600))
	s, err := open1(t, path).Load()
	if err != nil || len(s.Exposures) != 0 {
		t.Errorf("loaded %+v, error %v", s, err)
	}
}

// BenchmarkWrite is what an exposure costs before its address may exist.
func BenchmarkWrite(b *testing.B) {
	for _, rows := range []int{0, 5000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			l := open1(b, filepath.Join(b.TempDir(), "ledger.db"))
			do(b, l.Write(append(exposuresOf(0, rows), exposure(rows))))
			n := rows
			for b.Loop() {
				n++
				do(b, l.Write([]guard.Record{exposure(n)}))
			}
		})
	}
}
