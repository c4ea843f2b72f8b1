package guardtest

import (
	"errors"
	"testing"

	"ntpveil/guard/daemon"
)

func TestLedgerModel(t *testing.T) {
	LedgerSuite(t, func(*testing.T) LedgerBench {
		l := NewLedger()
		reopen := func() daemon.Ledger { l.Reopen(); return l }
		return LedgerBench{Ledger: l, Reopen: reopen, Damage: func() daemon.Ledger { l.Damage(); return l }}
	})
}

func TestLedgerModelPrintsAndFails(t *testing.T) {
	l := NewLedger()
	ledgerWrite(t, l, ledgerRecords(ledgerFull())...)
	want := `exposure 192.0.2.1 on eth0 to 198.51.100.1, throw-away
exposure 2001:db8:1::a on eth0 to nobody, throw-away
exposure 2001:db8:1::b on eth0 to 2001:db8:5::1, throw-away
exposure 2001:db8:1::b on eth0 to 2001:db8:6::1, throw-away
server 198.51.100.1:123 of "2.pool.example" chosen=true tokens=2.50 rate=3
server [2001:db8:5::1]:123 of "2.pool.example" chosen=false tokens=2.50 rate=3
pool 2.pool.example
keys of nts.example:4460 for [2001:db8:5::1]:123, 2 cookies
clock forward=1s backward=1ms
rules server in place of router until 1h0m0s
`
	if got := l.Text(); got != want {
		t.Errorf("prints\n%swant\n%s", got, want)
	}
	broken := errors.New("broken")
	for _, stage := range []string{"Load", "Write"} {
		l.Fail(stage, broken)
	}
	if _, err := l.Load(); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if err := l.Write(nil); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
