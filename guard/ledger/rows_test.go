package ledger

import (
	"encoding/json"
	"math"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"ntpveil/guard"
)

// TestDamagedRows: rows that do not parse, or lie under another's key, are left
// out and counted; the others are there.
func TestDamagedRows(t *testing.T) {
	l := open1(t, filepath.Join(t.TempDir(), "ledger.db"))
	do(t, l.Write(exposuresOf(0, 3)))
	value, err := json.Marshal(exposure(1).Exposure)
	do(t, err)
	do(t, l.store.db.Update(func(tx *bolt.Tx) error {
		for _, r := range []row{{place{exposures, "x"}, []byte("{")}, {place{exposures, "y"}, value}, {place{exposures, "z"}, nil},
			{place{servers, "q"}, []byte("{}")}, {place{pools, "p"}, []byte(`{"name":"other"}`)}, {place{clock, "clock"}, []byte(`7`)}} {
			do(t, tx.Bucket([]byte(r.bucket)).Put([]byte(r.key), r.value))
		}
		return nil
	}))
	s, err := l.Load()
	if err == nil || !strings.Contains(err.Error(), "6 rows do not parse") || len(s.Exposures) != 3 || len(s.Servers)+len(s.Pools) != 0 {
		t.Errorf("loaded %+v, error %v", s, err)
	}
}

// TestNotKept: a record that cannot be kept is an error, and says which.
func TestNotKept(t *testing.T) {
	l := open1(t, filepath.Join(t.TempDir(), "ledger.db"))
	server := netip.MustParseAddrPort("192.0.2.1:123")
	for want, r := range map[string]guard.Record{
		"exposures: a record without a name": {Exposure: &guard.ExposureRecord{}},
		"servers: a record without a name":   {Server: &guard.ServerRecord{}},
		"pools: a record without a name":     {Pool: &guard.PoolRecord{Name: strings.Repeat("x", bolt.MaxKeySize+1)}},
		"servers of 192.0.2.1:123":           {Server: &guard.ServerRecord{Addr: server, Tokens: math.NaN()}},
	} {
		if err := l.Write([]guard.Record{exposure(1), r}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	if s := load(t, l); !reflect.DeepEqual(s, guard.Snapshot{}) {
		t.Errorf("half of a batch was kept: %+v", s)
	}
}

// FuzzRow: any row decodes or does not, and what decodes survives being written.
func FuzzRow(f *testing.F) {
	value, err := json.Marshal(exposure(1).Exposure)
	do(f, err)
	f.Add([]byte(exposureKey(*exposure(1).Exposure)), value)
	f.Add([]byte("192.0.2.1:123"), []byte(`{"addr":"192.0.2.1:123","tokens":1e308}`))
	f.Add([]byte("p"), []byte(`{"name":"p","resolved":"9999-12-31T23:59:59.999999999+23:59"}`))
	f.Add([]byte("clock"), []byte(`{"boot_id":"b","Forward":9223372036854775807}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		again(t, key, value, exposureKey, func(r guard.ExposureRecord) guard.Record { return guard.Record{Exposure: &r} })
		again(t, key, value, serverKey, func(r guard.ServerRecord) guard.Record { return guard.Record{Server: &r} })
		again(t, key, value, poolKey, func(r guard.PoolRecord) guard.Record { return guard.Record{Pool: &r} })
		again(t, key, value, clockKey, func(r guard.ClockRecord) guard.Record { return guard.Record{Clock: &r} })
		again(t, key, value, rulesKey, func(r guard.RulesRecord) guard.Record { return guard.Record{Rules: &r} })
		for _, date := range dates {
			date(key, value)
		}
	})
}

func again[T any](t *testing.T, key, value []byte, keyOf func(T) string, wrap func(T) guard.Record) {
	r, err := decode(key, value, keyOf)
	if err != nil || len(key) > bolt.MaxKeySize {
		return
	}
	rows, err := rowsOf([]guard.Record{wrap(r)})
	if err != nil || len(rows) != 1 || rows[0].key != string(key) {
		t.Fatalf("%+v is not written again: %+v, error %v", r, rows, err)
	}
	if _, err := decode([]byte(rows[0].key), rows[0].value, keyOf); err != nil {
		t.Fatalf("%s does not parse again: %v", rows[0].value, err)
	}
}
