package ledger

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
)

// TestMain is also the victim of the kill test.
func TestMain(m *testing.M) {
	if path := os.Getenv("LEDGER_WRITE_AND_WAIT"); path != "" {
		l, err := Open(path)
		if err == nil {
			err = l.Write([]guard.Record{exposure(7)})
		}
		fmt.Println("written", err)
		select {}
	}
	os.Exit(m.Run())
}

var at = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func exposure(i int) guard.Record {
	a := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
	return guard.Record{Key: guard.Key(i), Kind: guard.KindExposure, At: at, Exposure: &guard.ExposureRecord{
		Addr: a, Link: 2, Interface: "eth0", Kind: "throw-away", Server: netip.MustParseAddr("2001:db8:101::1"), Port: 40000,
		AskedAt: at, ExistsUntil: at.Add(time.Hour), GuardedUntil: at.Add(time.Duration(i) * time.Second)}}
}

func open1(t *testing.T, path string) *Ledger {
	t.Helper()
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestWhatWasWrittenIsLoaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "ledger.db")
	l := open1(t, path)
	server := &guard.ServerRecord{Addr: netip.MustParseAddrPort("[2001:db8:101::1]:123"), Name: "n", Pool: "p", Chosen: true, Tokens: 2.5, TokensAt: at, Rate: 1}
	clock := &guard.ClockRecord{BootID: "b", Forward: time.Second, CorrectedAt: at}
	records := []guard.Record{exposure(1), {Server: server, At: at}, {Pool: &guard.PoolRecord{Name: "p", Resolved: at}, At: at}, {Clock: clock, At: at}, {Text: "journal only", At: at}}
	if err := l.Write(records); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open1(t, path).Load()
	want := guard.Snapshot{Exposures: []guard.ExposureRecord{*exposure(1).Exposure}, Servers: []guard.ServerRecord{*server},
		Pools: []guard.PoolRecord{{Name: "p", Resolved: at}}, Clock: *clock}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("loaded %+v, error %v\nwant %+v", got, err, want)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

// TestAKillLosesNothing: what Write returned for is there after kill -9.
func TestAKillLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LEDGER_WRITE_AND_WAIT="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, _ := out.Read(line)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if got := strings.TrimSpace(string(line[:n])); got != "written <nil>" {
		t.Fatalf("the writer said %q", got)
	}
	if s, err := open1(t, path).Load(); err != nil || len(s.Exposures) != 1 {
		t.Errorf("loaded %+v, error %v", s, err)
	}
}

func TestDamageIsMovedAside(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"not a database": func([]byte) []byte { return []byte(strings.Repeat("ledger?\n", 2000)) },
		"cut":            func(b []byte) []byte { return b[:len(b)/2] },
		"tiny":           func([]byte) []byte { return []byte("x") },
		"zeroed":         func(b []byte) []byte { return make([]byte, len(b)) },
		"page 2 spoilt":  func(b []byte) []byte { return overwrite(b, 2*4096) },
		"page 3 spoilt":  func(b []byte) []byte { return overwrite(b, 3*4096) },
		"page 5 spoilt":  func(b []byte) []byte { return overwrite(b, 5*4096) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "ledger.db")
			l := open1(t, path)
			for i := range 200 {
				if err := l.Write([]guard.Record{exposure(i)}); err != nil {
					t.Fatal(err)
				}
			}
			_ = l.Close()
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			spoilt := spoil(whole)
			if err := os.WriteFile(path, spoilt, 0o600); err != nil {
				t.Fatal(err)
			}
			l = open1(t, path)
			s, err := l.Load()
			if err == nil && len(s.Exposures) != 200 {
				t.Errorf("%d exposures and no error", len(s.Exposures))
			}
			if err := l.Write([]guard.Record{exposure(1)}); err != nil {
				t.Errorf("write after damage: %v", err)
			}
			if kept, _ := filepath.Glob(path + ".damaged-*"); err != nil && len(kept) != 1 {
				t.Errorf("load said %v; moved aside: %v", err, kept)
			}
		})
	}
}

func overwrite(b []byte, at int) []byte {
	if at+4096 <= len(b) {
		for i := range 4096 {
			b[at+i] = 0xa5
		}
	}
	return b
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/null", dir, link} {
		if l, err := Open(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v, %v", path, l, err)
		}
	}
	if st, err := os.Stat("/dev/null"); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		t.Fatalf("/dev/null is gone: %v %v", st, err)
	}
}

func TestASecondDaemonIsToldAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	open1(t, path)
	if _, err := Open(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v", err)
	}
}

func TestANewerSchemaIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open1(t, path)
	err := l.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(metaBucket).Put(schemaKey, []byte("9")) })
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := Open(path); !errors.Is(err, ErrNewer) {
		t.Errorf("open: %v", err)
	}
	if kept, _ := filepath.Glob(path + ".damaged-*"); len(kept) != 0 {
		t.Errorf("moved aside: %v", kept)
	}
}

func TestRowsThatCannotBeReadAreCounted(t *testing.T) {
	l := open1(t, filepath.Join(t.TempDir(), "ledger.db"))
	if err := l.Write([]guard.Record{exposure(1)}); err != nil {
		t.Fatal(err)
	}
	err := l.db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("exposures")).Put([]byte("x"), []byte("{")) })
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Load()
	if err == nil || !strings.Contains(err.Error(), "1 rows") || len(s.Exposures) != 1 {
		t.Errorf("loaded %+v, error %v", s, err)
	}
}

func TestItIsBounded(t *testing.T) {
	defer func(n int) { limits["exposures"] = n }(limits["exposures"])
	limits["exposures"] = 100
	l := open1(t, filepath.Join(t.TempDir(), "ledger.db"))
	var records []guard.Record
	for i := range pruneEvery {
		records = append(records, exposure(i))
	}
	if err := l.Write(records); err != nil {
		t.Fatal(err)
	}
	s, err := l.Load()
	if err != nil || len(s.Exposures) > 100 {
		t.Fatalf("%d exposures, error %v", len(s.Exposures), err)
	}
	for _, x := range s.Exposures {
		if x.GuardedUntil.Before(at.Add(time.Duration(pruneEvery-100) * time.Second)) {
			t.Errorf("an old one stayed: %+v", x)
		}
	}
}

func FuzzRow(f *testing.F) {
	f.Add([]byte(`{"addr":"2001:db8::1","asked_at":"2026-11-01T12:00:00Z"}`))
	f.Add([]byte(`{"addr":"[2001:db8::1]:123","tokens":1e400}`))
	f.Fuzz(func(t *testing.T, row []byte) {
		for name := range limits {
			_ = age(name, row)
		}
		_, _ = decode[guard.ClockRecord](row)
	})
}

// BenchmarkWrite is what an exposure costs before its address may exist.
func BenchmarkWrite(b *testing.B) {
	l, err := Open(filepath.Join(b.TempDir(), "ledger.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for i := range b.N {
		if err := l.Write([]guard.Record{exposure(i)}); err != nil {
			b.Fatal(err)
		}
	}
}
