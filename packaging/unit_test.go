package packaging

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// systemd's own scale: 10 is no protection at all. timesyncd has 2.3, chrony 3.7.
func TestUnitsAreHardened(t *testing.T) {
	need(t, "systemd-analyze")
	run(t, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", "../systemd/ntpveil.service")
	run(t, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=10", "../systemd/ntpveil-wait-sync.service")
}

func TestCompanionUnits(t *testing.T) {
	need(t, "systemd-analyze")
	run(t, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=40", "../systemd/ntpveil-companion.service")
	dir := t.TempDir()
	for _, unit := range []string{"ntpveil-companion.service", "ntpveil-companion-online.service"} {
		text := strings.ReplaceAll(read(t, "../systemd/"+unit), "/usr/bin/ntpveil", "/bin/true")
		if err := os.WriteFile(dir+"/"+unit, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, before, _ := strings.Cut(read(t, "../systemd/ntpveil-companion.service"), "\nBefore=")
	before, _, _ = strings.Cut(before, "\n")
	for _, rival := range settings(t, "Conflicts") {
		if rival != "systemd-timesyncd.service" && !slices.Contains(strings.Fields(before), rival) {
			t.Errorf("the first query of %s may come before the companion", rival)
		}
	}
	run(t, "systemd-analyze", "verify", "--man=no", dir+"/ntpveil-companion.service", dir+"/ntpveil-companion-online.service")
}

func TestUnitHasTheCapabilitiesItNeedsAndNoOthers(t *testing.T) {
	for _, key := range []string{"AmbientCapabilities", "CapabilityBoundingSet"} {
		got := settings(t, key)
		slices.Sort(got)
		if !slices.Equal(got, []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_TIME"}) {
			t.Errorf("%s: %v", key, got)
		}
	}
}

func TestUnitConflictsWithEveryRival(t *testing.T) {
	conflicts, after := settings(t, "Conflicts"), settings(t, "After")
	for _, rival := range []string{"systemd-timesyncd", "chrony", "chronyd", "chronyd-restricted", "ntp", "ntpd", "ntpsec", "openntpd", "ntpd-rs"} {
		if !slices.Contains(conflicts, rival+".service") || !slices.Contains(after, rival+".service") {
			t.Errorf("no conflict with %s, or out of order", rival)
		}
	}
}

// What waits for the clock to be set, or to be right, waits for us. The directories
// are those that the daemon writes to (sysclock.System).
func TestUnitKeepsTheSavedClock(t *testing.T) {
	for key, want := range map[string][]string{
		"Before": {"time-set.target", "time-sync.target"}, "Wants": {"time-set.target"},
		"StateDirectory": {"ntpveil", "systemd/timesync"}, "RuntimeDirectory": {"ntpveil", "systemd/timesync"},
	} {
		got := settings(t, key)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, not %v", key, got, want)
		}
	}
}

// settings are all words that the unit gives a key.
func settings(t *testing.T, key string) (words []string) {
	t.Helper()
	for _, line := range strings.Split(read(t, "../systemd/ntpveil.service"), "\n") {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			words = append(words, strings.Fields(value)...)
		}
	}
	return words
}
