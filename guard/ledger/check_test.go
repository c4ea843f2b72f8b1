package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
)

// grown is the bytes of a ledger that has lived: branches, free pages, a row of
// several pages.
func grown(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(quick(t), "ledger.db")
	l := open1(t, path)
	long := exposure(50)
	long.Exposure.Interface = strings.Repeat("x", 9000)
	do(t, l.Write(append(exposuresOf(0, 100), long)))
	do(t, l.Write([]guard.Record{{Pool: &guard.PoolRecord{Name: "2.pool.example"}}, {Clock: &guard.ClockRecord{BootID: "b"}}}))
	for n := 20; n < 40; n++ {
		do(t, l.store.db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket([]byte(exposures)).Delete([]byte(exposureKey(*exposure(n).Exposure)))
		}))
	}
	do(t, l.Close())
	b, err := os.ReadFile(path)
	do(t, err)
	return b
}

// survive opens damaged bytes as a ledger, uses it, and opens it again. What was
// put aside must be what was there.
func survive(t *testing.T, dir string, damaged []byte) (whole bool) {
	t.Helper()
	path := filepath.Join(dir, "ledger.db")
	do(t, os.WriteFile(path, damaged, 0o600))
	intact := check(bytes.NewReader(damaged), int64(len(damaged))) == nil
	l, err := Open(path)
	if errors.Is(err, ErrNewer) { // the schema's only digit was hit
		return true
	}
	do(t, err)
	before, told := l.Load()
	aside := kept(t, path)
	if len(aside) > 0 != (told != nil && strings.Contains(told.Error(), "it is kept as "+path+".corrupt-")) {
		t.Fatalf("put aside: %v, but told %v", aside, told)
	}
	for _, name := range aside {
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, damaged) {
			t.Fatalf("what was kept is not what was there: %v", err)
		}
		do(t, os.Remove(name))
	}
	l.store.pruned = l.store.opened // what was damaged is not pruned here
	if err := l.Write(append(exposuresOf(200, 230), exposure(3))); err != nil {
		t.Fatalf("write: %v (the check found it intact: %t)", err, intact)
	}
	do(t, l.Close())
	if l, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	after, _ := l.Load()
	if n := len(after.Exposures) - len(before.Exposures); n < 30 || n > 31 {
		t.Fatalf("%d exposures, after 31 more %d (put aside: %v)", len(before.Exposures), len(after.Exposures), aside)
	}
	return len(aside) == 0
}

// TestEveryPageDamaged: whatever page is spoilt in whatever way, and wherever the
// file is cut, there is a ledger that works, and nothing is lost.
func TestEveryPageDamaged(t *testing.T) {
	b, dir := grown(t), quick(t)
	r := rand.New(rand.NewPCG(1, 2))
	size := os.Getpagesize()
	spoil := func(do func(b []byte) []byte) bool { return survive(t, dir, do(bytes.Clone(b))) }
	if !spoil(func(b []byte) []byte { return b }) {
		t.Fatal("a healthy one was put aside")
	}
	found := 0
	for at := 0; at < len(b); at += size {
		page := func(b []byte) []byte { return b[at : at+size] }
		for name, do := range map[string]func(b []byte) []byte{
			"zero":    func(b []byte) []byte { clear(page(b)); return b },
			"ones":    func(b []byte) []byte { copy(page(b), bytes.Repeat([]byte{0xff}, size)); return b },
			"noise":   func(b []byte) []byte { fill(r, page(b)); return b },
			"half":    func(b []byte) []byte { fill(r, page(b)[size/2:]); return b },
			"another": func(b []byte) []byte { copy(page(b), b[r.IntN(len(b)/size)*size:][:size]); return b },
			"cut":     func(b []byte) []byte { return b[:at] },
			"cut+1":   func(b []byte) []byte { return b[:at+1] },
			"cut-1":   func(b []byte) []byte { return b[:max(at-1, 0)] },
		} {
			if t.Run(fmt.Sprintf("page %d %s", at/size, name), func(t *testing.T) {
				if !survive(t, dir, do(bytes.Clone(b))) {
					found++
				}
			}); t.Failed() {
				return
			}
		}
	}
	if found < len(b)/size {
		t.Errorf("only %d damages were noticed", found)
	}
}

func fill(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// TestBitsDamaged flips bits where they hurt most: in headers and elements.
func TestBitsDamaged(t *testing.T) {
	b, dir := grown(t), quick(t)
	r := rand.New(rand.NewPCG(3, 4))
	size := os.Getpagesize()
	for range 300 {
		damaged := bytes.Clone(b)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(b)/size)*size + r.IntN(200)
			damaged[at] ^= 1 << r.IntN(8)
		}
		survive(t, dir, damaged)
	}
}

// TestCheckSays makes the damages that bbolt would come to harm by: circles, pages
// in use and free at once, sizes out of all bounds.
func TestCheckSays(t *testing.T) {
	b := grown(t)
	size := os.Getpagesize()
	m, err := newestMeta(bytes.NewReader(b), int64(len(b)))
	do(t, err)
	free := int(m.freelist)*size + headerSize
	unused := map[uint64]bool{} // a free page may look like a branch still
	for i := range int(order.Uint16(b[free-6:])) {
		unused[order.Uint64(b[free+8*i:])] = true
	}
	branch := 0
	for at := 2 * size; at < len(b) && branch == 0; at += size {
		if id := uint64(at / size); order.Uint16(b[at+8:]) == branchPage && order.Uint64(b[at:]) == id && !unused[id] && id < m.pages {
			branch = at
		}
	}
	if branch == 0 || order.Uint16(b[free-6:]) < 2 {
		t.Fatal("the ledger has no branch or no free pages to damage")
	}
	remeta := func(b []byte, at int, value uint64) {
		for page := 0; page < 2*size; page += size { // both, with the sums that they should have
			order.PutUint64(b[page+headerSize+at:], value)
			sum := fnv.New64a()
			sum.Write(b[page+headerSize:][:56])
			order.PutUint64(b[page+headerSize+56:], sum.Sum64())
		}
	}
	for want, spoil := range map[string]func(b []byte){
		"it has no intact first page":           func(b []byte) { b[headerSize+20]++; b[size+headerSize+20]++ },
		"pages in":                              func(b []byte) { remeta(b, 40, 1<<60) },
		"page 1152921504606846976 does not":     func(b []byte) { remeta(b, 16, 1<<60) },
		"page 1 does not exist":                 func(b []byte) { remeta(b, 32, 1) },
		"is used twice":                         func(b []byte) { order.PutUint64(b[branch+headerSize+8:], uint64(branch/size)) },
		fmt.Sprint("page ", branch/size, " is"): func(b []byte) { order.PutUint64(b[free:], uint64(branch/size)) },
		fmt.Sprint("page ", order.Uint64(b[free:]), " is used twice"): func(b []byte) { copy(b[free+8:], b[free:free+8]) },
		"page 77777 does not exist":                                   func(b []byte) { order.PutUint64(b[free:], 77777) },
		"is no list of free pages":                                    func(b []byte) { order.PutUint16(b[free-8:], leafPage) },
		"no list of free pages":                                       func(b []byte) { order.PutUint16(b[free-6:], 0xFFFF); order.PutUint64(b[free:], 1<<62) },
		"says that it is another":                                     func(b []byte) { order.PutUint64(b[branch:], uint64(branch/size)+1) },
		"does not exist":                                              func(b []byte) { order.PutUint32(b[branch+12:], 1<<31) },
		"of no kind":                                                  func(b []byte) { order.PutUint16(b[branch+8:], freelistPage) },
		"more elements than room":                                     func(b []byte) { order.PutUint16(b[branch+10:], 0xFFFE) },
		"element 0 is out of bounds":                                  func(b []byte) { order.PutUint32(b[branch+headerSize:], 1<<31) },
		"out of order":                                                func(b []byte) { b[branch+headerSize+int(order.Uint32(b[branch+headerSize:]))]++ },
	} {
		damaged := bytes.Clone(b)
		spoil(damaged)
		if err := check(bytes.NewReader(damaged), int64(len(damaged))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the check says %v, want %q in it", err, want)
		}
		survive(t, quick(t), damaged)
	}
}

// TestHealthyIsNotDamaged: no file that bbolt wrote is ever taken for damaged, with
// short and long keys and rows, growing and shrinking. (12,000 commits were tried
// once, in trees of up to eight levels.)
func TestHealthyIsNotDamaged(t *testing.T) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 5))
		l := open1(t, filepath.Join(quick(t), "ledger.db"))
		l.store.db.NoSync = true
		name, longest := strings.Repeat("k", 1<<r.IntN(11)), 16<<r.IntN(10)
		for step := range 60 {
			do(t, l.store.db.Update(func(tx *bolt.Tx) error {
				b := tx.Bucket([]byte(exposures))
				for range 1 + r.IntN(1<<r.IntN(9)) {
					key := []byte(exposureKey(*exposure(r.IntN(1 << 11)).Exposure) + name)
					if grow := step/20%2 == 0; (r.IntN(4) == 0) == grow {
						do(t, b.Delete(key))
					} else {
						do(t, b.Put(key, make([]byte, r.IntN(longest))))
					}
				}
				return nil
			}))
			st, err := os.Stat(l.path)
			do(t, err)
			if err := check(l.store.file, st.Size()); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
		}
	}
}

// quick is a directory in memory: these tests sync thousands of times.
func quick(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ledger")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestNotOurs: a foreign file is kept, an empty one too.
func TestNotOurs(t *testing.T) {
	for _, text := range []string{"", "x", strings.Repeat("no ledger\n", 5000)} {
		survive(t, t.TempDir(), []byte(text))
	}
	path := filepath.Join(t.TempDir(), "other.db")
	db, err := bolt.Open(path, 0o600, nil)
	do(t, err)
	do(t, errors.Join(db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }), db.Close()))
	if _, err := open1(t, path).Load(); err == nil || len(kept(t, path)) != 1 {
		t.Errorf("error %v, kept %v", err, kept(t, path))
	}
}

// TestUnderOurFeet: the file is cut short, removed or replaced while it is in use.
// It is an error, once, and then there is a fresh one.
func TestUnderOurFeet(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"cut to nothing": func(path string) error { return os.Truncate(path, 0) },
		"cut":            func(path string) error { return os.Truncate(path, 8192) },
		"removed":        os.Remove,
		"replaced": func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path, make([]byte, 1<<20), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			l := open1(t, path)
			do(t, l.Write(exposuresOf(0, 100)))
			do(t, spoil(path))
			if err := l.Write(exposuresOf(100, 101)); err == nil {
				t.Error("written to a file that is gone")
			}
			if _, err := l.Load(); err == nil {
				t.Error("read from a file that is gone")
			}
			do(t, l.Write(exposuresOf(100, 101)))
			if s, err := l.Load(); len(s.Exposures) != 1 || (err == nil) != (name == "removed") {
				t.Errorf("%d exposures, error %v", len(s.Exposures), err)
			}
		})
	}
}

// TestFault: the map faults, which no check before the use can rule out.
func TestFault(t *testing.T) {
	for name, use := range map[string]func(l *Ledger) error{
		"load":  func(l *Ledger) error { _, err := l.Load(); return err },
		"write": func(l *Ledger) error { return l.Write(exposuresOf(100, 101)) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			l := open1(t, path)
			do(t, l.Write(exposuresOf(0, 100)))
			do(t, os.Truncate(path, 8192))
			var err error
			l.store.seen, err = os.Stat(path) // as if it had been cut just after the look
			do(t, err)
			if err := use(l); err == nil || !strings.Contains(err.Error(), "the file is damaged") || len(kept(t, path)) != 1 {
				t.Errorf("error %v, kept %v", err, kept(t, path))
			}
			do(t, l.Write(exposuresOf(0, 1)))
			if s, err := l.Load(); err != nil || len(s.Exposures) != 1 {
				t.Errorf("%d exposures, error %v", len(s.Exposures), err)
			}
		})
	}
}

// FuzzFile patches a ledger: three bytes of place, one of value, and so on; then
// cuts it.
func FuzzFile(f *testing.F) {
	b := grown(f)
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{0, 0x20, 0x08, 0xff}, uint32(0))
	f.Add([]byte{0, 0x30, 0x10, 1, 0, 0x30, 0x11, 0}, uint32(100))
	f.Fuzz(func(t *testing.T, patches []byte, cut uint32) {
		damaged := bytes.Clone(b)
		for ; len(patches) >= 4; patches = patches[4:] {
			at := int(patches[0])<<16 | int(patches[1])<<8 | int(patches[2])
			damaged[at%len(b)] = patches[3]
		}
		survive(t, quick(t), damaged[:len(b)-int(cut)%len(b)])
	})
}
