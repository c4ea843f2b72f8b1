package main

import (
	"os"
	"testing"

	"ntpveil/guard/lab"
)

// TestApplyRefusesWhatCannotComeBack: where somebody's things in the table could not
// be put back nothing is applied over them, with a daemon and without.
func TestApplyRefusesWhatCannotComeBack(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	refused := func(before string) {
		t.Helper()
		if _, err := h.nft("add", "counter", "inet", "ntpveil", "visits"); err != nil {
			t.Fatal(err)
		}
		was := h.table()
		for _, confirm := range []string{"2s", "0"} {
			h.refused(1, "object visits", "apply", "lockdown", "--confirm", confirm)
		}
		if got := h.table(); got != was || !preset(before)(got) {
			t.Errorf("the table is now\n%s", got)
		}
		if _, err := os.Stat(h.path("trials") + "/trial.json"); before == "workstation" && err == nil {
			t.Error("a trial is remembered")
		}
		if _, err := h.nft("delete", "counter", "inet", "ntpveil", "visits"); err != nil {
			t.Fatal(err)
		}
		h.must("apply", "lockdown", "--confirm", "1h")
		h.must("revert")
	}
	s := h.start()
	refused("workstation")
	s.stop()
	h.must("apply", "server", "--confirm", "0")
	refused("server")
}
