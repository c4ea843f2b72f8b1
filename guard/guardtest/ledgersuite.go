package guardtest

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
)

// LedgerBench is a ledger on a bench.
type LedgerBench struct {
	Ledger daemon.Ledger
	Reopen func() daemon.Ledger // closes it, then opens it as the next run of the daemon does
	Damage func() daemon.Ledger // the same, and what is on disk is spoilt between
}

// LedgerSuite is what every ledger does, the model and the file alike.
func LedgerSuite(t *testing.T, open func(t *testing.T) LedgerBench) {
	for name, test := range map[string]func(t *testing.T, b LedgerBench){
		"nothing at first": ledgerEmpty, "remembers": ledgerRemembers, "replaces": ledgerReplaces, "keeps nothing of notes": ledgerNotes,
		"all or nothing": ledgerAll, "order of servers": ledgerServers, "closed": ledgerClosed, "damaged": ledgerDamaged,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

var ledgerNow = time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)

func ledgerExposure(addr, server string) guard.ExposureRecord {
	x := guard.ExposureRecord{Addr: netip.MustParseAddr(addr), Link: 2, Interface: "eth0", Kind: "throw-away", Port: 40000,
		AskedAt: ledgerNow, ExistsUntil: ledgerNow.Add(time.Hour), GuardedUntil: ledgerNow.Add(25 * time.Hour)}
	if server != "" {
		x.Server = netip.MustParseAddr(server)
	}
	return x
}

func ledgerServer(addr string, chosen bool, at time.Time) guard.ServerRecord {
	return guard.ServerRecord{Addr: netip.MustParseAddrPort(addr), Name: "name.example", Pool: "2.pool.example", Chosen: chosen,
		Tokens: 2.5, TokensAt: at, Rate: 3, DeniedUntil: at.Add(time.Hour)}
}

// ledgerFull is a snapshot with everything in it, in the order that Load has.
func ledgerFull() guard.Snapshot {
	return guard.Snapshot{
		Exposures: []guard.ExposureRecord{
			ledgerExposure("192.0.2.1", "198.51.100.1"),
			ledgerExposure("2001:db8:1::a", ""), // a control address: nobody has seen it
			ledgerExposure("2001:db8:1::b", "2001:db8:5::1"),
			ledgerExposure("2001:db8:1::b", "2001:db8:6::1"),
		},
		Servers: []guard.ServerRecord{ledgerServer("198.51.100.1:123", true, ledgerNow), ledgerServer("[2001:db8:5::1]:123", false, ledgerNow)},
		Pools:   []guard.PoolRecord{{Name: "2.pool.example", Resolved: ledgerNow}},
		Clock:   guard.ClockRecord{BootID: "boot", Forward: time.Second, Backward: time.Millisecond, CorrectedAt: ledgerNow},
		NTS: []guard.NTSRecord{{
			Name: "nts.example:4460", Server: netip.MustParseAddrPort("[2001:db8:5::1]:123"), At: netip.MustParseAddrPort("[2001:db8:5::1]:4460"),
			Keys:    guard.NTSKeys{AEAD: 15, ToServer: guard.Secret("to"), ToClient: guard.Secret("fro"), NotBefore: ledgerNow, NotAfter: ledgerNow.Add(time.Hour)},
			Cookies: []guard.Secret{guard.Secret("one"), guard.Secret("two")}, Used: []uint64{1 << 63, 2}, Made: ledgerNow, Place: "here",
		}},
		Rules: guard.RulesRecord{BootID: "boot", Now: guard.PresetRecord{Name: "server", Text: "about = \"a\"\n"}, Before: guard.PresetRecord{Name: "router", Text: "b"},
			Kept: true, Until: time.Hour, At: time.Minute, Session: "5"},
	}
}

// ledgerRecords are the records that a snapshot is made of.
func ledgerRecords(s guard.Snapshot) []guard.Record {
	var out []guard.Record
	for i := range s.Exposures {
		out = append(out, guard.Record{Kind: guard.KindExposure, At: ledgerNow, Exposure: &s.Exposures[i]})
	}
	for i := range s.Servers {
		out = append(out, guard.Record{Kind: guard.KindServer, At: ledgerNow, Server: &s.Servers[i]})
	}
	for i := range s.Pools {
		out = append(out, guard.Record{Kind: guard.KindPool, At: ledgerNow, Pool: &s.Pools[i]})
	}
	for i := range s.NTS {
		out = append(out, guard.Record{Kind: guard.KindKeys, At: ledgerNow, NTS: &s.NTS[i]})
	}
	return append(out, guard.Record{Kind: guard.KindClock, At: ledgerNow, Clock: &s.Clock}, guard.Record{Kind: guard.KindShield, At: ledgerNow, Rules: &s.Rules})
}

func ledgerWrite(t *testing.T, l daemon.Ledger, records ...guard.Record) {
	t.Helper()
	if err := l.Write(records); err != nil {
		t.Fatal(err)
	}
}

// ledgerHolds compares what is loaded.
func ledgerHolds(t *testing.T, l daemon.Ledger, want guard.Snapshot) {
	t.Helper()
	got, err := l.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("loaded\n%+v\nwant\n%+v", got, want)
	}
}

func ledgerEmpty(t *testing.T, b LedgerBench) {
	ledgerHolds(t, b.Ledger, guard.Snapshot{})
	ledgerHolds(t, b.Reopen(), guard.Snapshot{})
}

func ledgerRemembers(t *testing.T, b LedgerBench) {
	ledgerWrite(t, b.Ledger, ledgerRecords(ledgerFull())...)
	ledgerHolds(t, b.Ledger, ledgerFull())
	ledgerHolds(t, b.Reopen(), ledgerFull())
}

func ledgerReplaces(t *testing.T, b LedgerBench) {
	s := ledgerFull()
	ledgerWrite(t, b.Ledger, ledgerRecords(s)...)
	s.Exposures[2].ExistsUntil, s.Servers[0].Tokens, s.Clock.Forward = ledgerNow, 1, time.Minute
	middle := s.Pools[0]
	middle.Resolved = ledgerNow.Add(time.Hour)
	ledgerWrite(t, b.Ledger, append([]guard.Record{{Pool: &middle}}, ledgerRecords(s)...)...) // the last of a batch counts
	ledgerHolds(t, b.Reopen(), s)
}

func ledgerNotes(t *testing.T, b LedgerBench) {
	ledgerWrite(t, b.Ledger)
	ledgerWrite(t, b.Ledger, guard.Record{Kind: guard.KindNotice, Text: "for the journal"})
	ledgerHolds(t, b.Ledger, guard.Snapshot{})
}

func ledgerAll(t *testing.T, b LedgerBench) {
	records := append(ledgerRecords(ledgerFull()), guard.Record{Pool: &guard.PoolRecord{}})
	if err := b.Ledger.Write(records); err == nil {
		t.Error("a pool without a name was kept")
	}
	ledgerHolds(t, b.Ledger, guard.Snapshot{})
}

func ledgerServers(t *testing.T, b LedgerBench) {
	want := guard.Snapshot{Servers: []guard.ServerRecord{
		ledgerServer("192.0.2.9:123", true, ledgerNow), ledgerServer("192.0.2.1:123", true, ledgerNow.Add(-time.Hour)),
		ledgerServer("192.0.2.5:123", false, ledgerNow.Add(time.Hour)), ledgerServer("192.0.2.4:123", false, ledgerNow),
	}}
	for _, i := range []int{2, 0, 3, 1} {
		ledgerWrite(t, b.Ledger, guard.Record{Server: &want.Servers[i]})
	}
	ledgerHolds(t, b.Ledger, want)
}

func ledgerClosed(t *testing.T, b LedgerBench) {
	for range 2 {
		if err := b.Ledger.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := b.Ledger.Write(ledgerRecords(ledgerFull())); err == nil {
		t.Error("written after it was closed")
	}
	if _, err := b.Ledger.Load(); err == nil {
		t.Error("read after it was closed")
	}
}

func ledgerDamaged(t *testing.T, b LedgerBench) {
	ledgerWrite(t, b.Ledger, ledgerRecords(ledgerFull())...)
	l := b.Damage()
	if s, err := l.Load(); err == nil || !reflect.DeepEqual(s, guard.Snapshot{}) {
		t.Errorf("loaded %+v, error %v: the loss is not told", s, err)
	}
	ledgerHolds(t, l, guard.Snapshot{}) // told once
	ledgerWrite(t, l, ledgerRecords(ledgerFull())...)
	ledgerHolds(t, b.Reopen(), ledgerFull())
}
