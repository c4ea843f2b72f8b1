package packaging

import (
	"strings"
	"testing"
	"time"
)

// TestCompanionOnRealSystemd: the companion stands beside timesyncd, behind
// nftables.service, whose every start, reload and stop flushes everything, and behind
// firewalld, whose start stops that.
func TestCompanionOnRealSystemd(t *testing.T) {
	m := boot(t, newNetwork(t).host, companion(t)+":/root/companion.deb")
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := m.try("journalctl", "--no-pager", "-u", "ntpveil*", "-u", "nftables*")
			t.Log(log)
		}
	})
	m.run("systemctl", "enable", "--now", "nftables.service")
	// What is the host's own is looked at once the network is up; here nobody waits for that.
	m.run("timeout", "30", "sh", "-c", "until ip -6 addr show scope global -tentative | grep -q 2001:db8:; do sleep 0.1; done")
	m.run("apt-get", "-y", "install", "/root/companion.deb")
	if out := m.run("dpkg-query", "-W", "-f", "${db:Status-Status}", "systemd-timesyncd"); out != "installed" {
		t.Errorf("systemd-timesyncd is %s", out)
	}
	user := strings.TrimSpace(m.run("id", "-u", "systemd-timesync"))
	if text := m.run("nft", "list", "table", "inet", "ntpveil"); !strings.Contains(text, "meta skuid "+user+" goto learn6") || !strings.Contains(text, "elements = { 2001:db8:") {
		t.Errorf("the rules know neither timesyncd nor the host's own addresses:\n%s", text)
	}
	const learnt = "nft list set inet ntpveil learnt4 2>/dev/null | grep -q 192.0.2.0"
	for _, after := range []struct {
		do    string
		flush bool
	}{
		{do: "systemctl reload ntpveil-companion"},
		{do: "systemctl reload nftables", flush: true},
		{do: "systemctl restart nftables", flush: true},
		{do: "systemctl stop nftables", flush: true},
		{do: "systemctl start nftables", flush: true},
		{do: "systemctl start firewalld && " + firewalldRuns, flush: true}, // stops nftables
		{do: "systemctl restart firewalld && " + firewalldRuns},
		// As the boot of a host that has firewalld.
		{do: "systemctl enable firewalld; systemctl stop firewalld ntpveil-companion; systemctl start multi-user.target; " + firewalldRuns, flush: true},
		{do: "systemctl disable --now firewalld; systemctl start nftables", flush: true},
	} {
		m.run("nft", "add", "element", "inet", "ntpveil", "learnt4", "{ 192.0.2.0 timeout 1h }")
		m.run("sh", "-c", after.do)
		if after.flush { // by a job that firewalld's start does not wait for
			m.run("timeout", "30", "sh", "-c", "while "+learnt+"; do sleep 0.05; done")
		}
		m.awaitTable(t, "after "+after.do, true)
		if _, err := m.try("sh", "-c", learnt); err != nil && !after.flush {
			t.Errorf("%s: what was learnt is gone", after.do)
		}
	}
	m.run("systemctl", "stop", "ntpveil-companion.service")
	m.run("systemctl", "restart", "nftables.service")
	if out, _ := m.try("systemctl", "is-active", "ntpveil-companion.service"); strings.TrimSpace(out) != "inactive" {
		t.Errorf("stopped, and %s after a restart of nftables.service", out)
	}
	m.run("sh", "-c", "for i in $(seq 6); do systemctl restart ntpveil-companion || exit; done") // an admin in a hurry
	m.observes(t)
	m.breaks(t)
	m.takesTurns(t)
	m.stopWins(t)
	m.stopMidway(t, "reload")
	m.stopMidway(t, "start")
	m.otherIsPurged(t)
	if out, err := m.try("systemctl", "--failed", "--plain", "--no-legend", "list-units", "ntpveil*"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("failed: %s, %v", out, err)
	}
	m.run("mkdir", "-p", "/run/ntpveil-rules")
	m.run("apt-get", "-y", "purge", "ntpveil-companion")
	m.awaitTable(t, "after its removal", false)
	if out := m.run("sh", "-c", "ls -d /run/ntpveil-rules /usr/lib/systemd/system/nftables.service.d 2>/dev/null || true"); out != "" {
		t.Errorf("its purge left %s", out)
	}
}

// observes has the companion drop nothing, as a fleet begins with it.
func (m *machine) observes(t *testing.T) {
	t.Helper()
	m.write("/etc/ntpveil/ntpveil.toml", "[shield]\nmode = \"observe\"\n")
	m.run("systemctl", "reload", "ntpveil-companion.service")
	if out := m.run("ntpveil", "rules", "report"); !strings.HasPrefix(out, "Preset companion, shield observing: ") {
		t.Errorf("rules report: %s", out)
	}
	m.run("rm", "/etc/ntpveil/ntpveil.toml")
}

// breaks the configuration: what is in force stays, and where nothing is, that is seen.
func (m *machine) breaks(t *testing.T) {
	t.Helper()
	m.write("/etc/ntpveil/ntpveil.toml", "[shield\n")
	if _, err := m.try("systemctl", "reload", "ntpveil-companion.service"); err == nil {
		t.Error("a broken configuration was loaded")
	}
	m.run("nft", "list", "table", "inet", "ntpveil")
	m.run("systemctl", "is-active", "ntpveil-companion.service")
	m.run("systemctl", "reload", "nftables.service")
	if out, err := m.try("timeout", "10", "sh", "-c", "until systemctl is-failed -q ntpveil-companion.service; do sleep 0.05; done"); err != nil {
		t.Errorf("there are no rules, and nothing has failed: %s", out)
	}
	m.run("rm", "/etc/ntpveil/ntpveil.toml")
	m.run("systemctl", "start", "ntpveil-companion.service")
}

// otherIsPurged: what was left of the package ntpveil goes, and nothing of the companion's.
func (m *machine) otherIsPurged(t *testing.T) {
	t.Helper()
	const mine = "/etc/ntpveil/presets/mine.toml"
	m.write(mine, "extends = \"companion\"\n")
	m.write("/var/lib/ntpveil/ledger.db", "")
	m.write("/root/postrm", read(t, "debian/ntpveil.postrm"))
	m.run("sh", "/root/postrm", "purge")
	if out, err := m.try("sh", "-c", "nft list table inet ntpveil >/dev/null && rm "+mine+" && [ ! -e /var/lib/ntpveil ]"); err != nil {
		t.Errorf("purged: %s", out)
	}
}

// takesTurns with the daemon, which puts its own table back until it has stopped.
func (m *machine) takesTurns(t *testing.T) {
	t.Helper()
	const daemon = "/run/systemd/system/ntpveil.service"
	m.write(daemon, "[Service]\nExecStart=sleep infinity\nExecStop=sh -c 'sleep 1; nft delete table inet ntpveil; nft add table inet ntpveil'\n")
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "start", "ntpveil.service")
	m.run("systemctl", "start", "ntpveil-companion.service")
	m.run("timeout", "30", "sh", "-c", "while systemctl is-active -q ntpveil.service; do sleep 0.05; done")
	m.run("sh", "-c", "until ! systemctl list-jobs | grep -q ntpveil.service; do sleep 0.05; done")
	if text := m.run("nft", "list", "table", "inet", "ntpveil"); !strings.Contains(text, "chain learn6") {
		t.Errorf("behind the daemon:\n%s", text)
	}
	m.run("rm", daemon)
	m.run("systemctl", "daemon-reload")
}

// stopWins over the reload that ntpveil-companion-online asks for at the same moment.
func (m *machine) stopWins(t *testing.T) {
	t.Helper()
	const late = "/run/systemd/system/ntpveil-companion-online.service.d/late.conf"
	_, reload, _ := strings.Cut(read(t, "../systemd/ntpveil-companion-online.service"), "\nExecStart=")
	m.write(late, "[Service]\nExecStartPre=sleep infinity\nExecStopPost="+reload)
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "restart", "ntpveil-companion.service")
	m.run("timeout", "30", "sh", "-c", "until systemctl is-active ntpveil-companion-online | grep -q activating; do sleep 0.05; done")
	if out, err := m.try("systemctl", "stop", "ntpveil-companion.service"); err != nil {
		t.Errorf("stop: %s", out)
	}
	m.run("rm", late)
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "start", "ntpveil-companion.service")
}

// stopMidway stops the companion while it reloads, as a restart of nftables.service
// during the boot does, or while it starts, and starts it again.
func (m *machine) stopMidway(t *testing.T, verb string) {
	t.Helper()
	if verb == "start" {
		m.run("systemctl", "stop", "ntpveil-companion.service")
	}
	m.write("/usr/local/sbin/nft", "#!/bin/sh\ntouch /run/asked; while [ -e /run/hold ]; do sleep 0.05; done; exec /usr/sbin/nft \"$@\"\n")
	m.run("chmod", "+x", "/usr/local/sbin/nft")
	m.run("touch", "/run/hold")
	m.run("systemctl", "--no-block", verb, "ntpveil-companion.service")
	m.run("timeout", "30", "sh", "-c", "until [ -e /run/asked ]; do sleep 0.05; done")
	m.run("systemctl", "--no-block", "stop", "ntpveil-companion.service")
	m.run("timeout", "30", "sh", "-c", "until systemctl is-active ntpveil-companion.service | grep -Eq 'deactivating|inactive|failed'; do sleep 0.05; done")
	m.run("rm", "/run/hold", "/run/asked")
	m.run("systemctl", "stop", "ntpveil-companion.service")
	m.run("rm", "/usr/local/sbin/nft")
	if out, _ := m.try("systemctl", "is-failed", "ntpveil-companion.service"); strings.TrimSpace(out) != "inactive" {
		t.Errorf("stopped in a %s it is %s", verb, out)
	}
	m.awaitTable(t, "stopped in a "+verb, false)
	m.run("systemctl", "start", "ntpveil-companion.service")
}

// awaitTable looks until the table is there, or is not: what nftables.service starts is
// a job of its own.
func (m *machine) awaitTable(t *testing.T, when string, there bool) {
	t.Helper()
	for range 200 {
		if _, err := m.try("nft", "list", "table", "inet", "ntpveil"); (err == nil) == there {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s: the table is there: %v", when, !there)
}
