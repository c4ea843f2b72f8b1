package packaging

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The configuration of the container: its clock is the host's, so it is only
// observed. The servers stand behind the router.
const observing = `[time]
servers = ["2001:db8:a::123", "2001:db8:b::123", "2001:db8:c::123"]
[clock]
mode = "observe"
`

// The whole life of the package on a real systemd, without a network to install
// from: installed, started, asked, reloaded, switched by timedatectl, purged.
func TestInstalledOnRealSystemd(t *testing.T) {
	lan := newNetwork(t)
	m := boot(t, lan.host, deb(t)+":/root/ntpveil.deb")
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := m.try("journalctl", "--no-pager", "-u", "ntpveil*")
			t.Log(log)
		}
	})
	before := m.files()
	m.write("/etc/ntpveil/conf.d/observe.toml", observing)
	m.run("apt-get", "-y", "install", "/root/ntpveil.deb")

	for _, step := range []struct {
		name  string
		check func(*testing.T, *machine, *network)
	}{
		{"timesyncd made way", timesyncdMadeWay},
		{"the unit is ready", unitIsReady},
		{"it agrees with chronyd", agreesWithChronyd},
		{"the shield is in force", shieldIsInForce},
		{"each server saw another address", serversSawThrowAways},
		{"everyone may ask for the status", everyoneMayAsk},
		{"reload", reloads},
		{"time-sync.target waits for it", timeSyncTargetWaits},
		{"systemd finds nothing to say", systemdIsContent},
		{"timedatectl set-ntp", timedatectlSwitches},
		{"it comes back after a kill", comesBackAfterKill},
		{"it keeps the saved clock", keepsTheSavedClock},
		{"upgrade of a daemon that runs, disarmed", upgrades},
		{"root starts it by hand", rootStartsItByHand},
		{"a rival takes over", rivalTakesOver},
		{"removed and installed again", removedAndBack},
	} {
		t.Run(step.name, func(t *testing.T) {
			m.t = t
			step.check(t, m, lan)
		})
	}
	m.t = t
	purgeLeavesTheUserAlone(t, m, before)
}

func timesyncdMadeWay(t *testing.T, m *machine, _ *network) {
	if out, _ := m.try("dpkg-query", "-W", "-f", "${db:Status-Status}", "systemd-timesyncd"); out == "installed" {
		t.Error("systemd-timesyncd is still installed")
	}
}

func unitIsReady(t *testing.T, m *machine, _ *network) {
	for name, want := range map[string]string{"ActiveState": "active", "SubState": "running", "User": "ntpveil", "NRestarts": "0"} {
		if got := m.property(name); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
	// What the container has of the unit's capabilities, and no others: NET_ADMIN
	// (bit 12) and NET_RAW (13). SYS_TIME (25) is withheld here.
	status := m.run("grep", "^Cap", "/proc/"+m.property("MainPID")+"/status")
	for _, line := range strings.Split(strings.TrimSpace(status), "\n") {
		if fields := strings.Fields(line); len(fields) != 2 || strings.TrimLeft(fields[1], "0") != "3000" {
			t.Errorf("capabilities: %s", line)
		}
	}
}

// answer of `ntpveil status --json`, as far as this test reads it.
type status struct {
	Synchronized bool
	Clock        struct {
		Mode         string
		Offset       float64 `json:"offset_s"`
		RootDistance float64 `json:"root_distance_s"`
	}
	Servers []struct {
		Address, State string
		Offset         float64 `json:"offset_s"`
	}
	Shield    struct{ State, Table string }
	Exposures []struct{ Address, Kind, Server string }
}

func (m *machine) status() (s status) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.run("ntpveil", "status", "--json")), &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

func agreesWithChronyd(t *testing.T, m *machine, lan *network) {
	m.run("ntpveil", "waitsync", "--timeout", "30s")
	s := m.status()
	if !s.Synchronized || s.Clock.Mode != "observe" {
		t.Errorf("synchronised %v, mode %s", s.Synchronized, s.Clock.Mode)
	}
	selected := 0
	for _, server := range s.Servers {
		if server.State == "selected" {
			selected++
		}
	}
	if selected != len(lan.servers) {
		t.Errorf("%d of %d servers selected: %+v", selected, len(lan.servers), s.Servers)
	}
	run(t, "chronyc", "-h", lan.beside, "waitsync", "30", "0", "0", "1")
	theirs := chronydOffset(t, lan.beside)
	t.Logf("offset: ours %+.6f s, chronyd's %+.6f s, the truth %+.6f s", s.Clock.Offset, theirs, shift.Seconds())
	// Both ask the same servers over the same machine; a busy one costs milliseconds.
	if math.Abs(s.Clock.Offset-theirs) > 0.010 || s.Clock.RootDistance > 0.050 {
		t.Errorf("offset %+.6f s, root distance %.6f s, chronyd says %+.6f s", s.Clock.Offset, s.Clock.RootDistance, theirs)
	}
}

// chronydOffset is by how much chronyd holds the clock to be behind. Of its
// figures this one follows the truth where it may not steer the clock.
func chronydOffset(t *testing.T, sock string) float64 {
	t.Helper()
	fields := strings.Split(run(t, "chronyc", "-c", "-h", sock, "tracking"), ",")
	if len(fields) < 5 {
		t.Fatalf("tracking: %q", fields)
	}
	ahead, err := strconv.ParseFloat(fields[4], 64)
	if err != nil {
		t.Fatal(err)
	}
	return ahead
}

func shieldIsInForce(t *testing.T, m *machine, _ *network) {
	s := m.status()
	if s.Shield.State != "in force" {
		t.Errorf("the shield is %s", s.Shield.State)
	}
	table := m.run("nft", "list", "table", "inet", "ntpveil")
	if len(s.Exposures) == 0 {
		t.Error("no exposure")
	}
	for _, e := range s.Exposures {
		if e.Kind != "stable" && !strings.Contains(table, e.Address) {
			t.Errorf("%s was shown to %s and is not in the table\n%s", e.Address, e.Server, table)
		}
	}
}

// From the servers' side: nobody saw the host's stable address, and no two the same.
func serversSawThrowAways(t *testing.T, m *machine, lan *network) {
	stable := m.run("ip", "-6", "address", "show", "dev", "host0", "scope", "global", "mngtmpaddr")
	var seen []string
	for i, sock := range lan.socks {
		clients := outsiders(run(t, "chronyc", "-c", "-n", "-h", sock, "clients"))
		if len(clients) == 0 {
			t.Errorf("server %d was never asked", i)
		}
		for _, client := range clients {
			if slices.Contains(seen, client) {
				t.Errorf("two servers saw %s", client)
			}
			if strings.Contains(stable, client+"/") {
				t.Errorf("server %d saw the stable address %s", i, client)
			}
		}
		seen = append(seen, clients...)
	}
}

// outsiders are the clients of a chronyd that live on the host's link.
func outsiders(clients string) (found []string) {
	link := netip.MustParsePrefix("2001:db8:1::/64")
	for _, line := range strings.Split(clients, "\n") {
		client, _, _ := strings.Cut(line, ",")
		if ip, err := netip.ParseAddr(client); err == nil && link.Contains(ip) {
			found = append(found, client)
		}
	}
	return found
}

func everyoneMayAsk(t *testing.T, m *machine, _ *network) {
	if out, err := m.asUser("ntpveil", "status", "--json"); err != nil || strings.Contains(out, `"exposures"`) {
		t.Errorf("status: %v\n%s", err, out)
	}
	out, err := m.asUser("ntpveil", "exposures")
	if code := exitCode(err); code != 4 {
		t.Errorf("exposures, for a user without rights: exit %d\n%s", code, out)
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// All of it or none: a broken file changes nothing, and the daemon runs on.
func reloads(t *testing.T, m *machine, _ *network) {
	pid := m.property("MainPID")
	m.write("/etc/ntpveil/conf.d/broken.toml", "[clock]\nmode = \"dance\"\n")
	out, err := m.try("ntpveil", "check")
	if exitCode(err) != 2 || !strings.Contains(out, "broken.toml:2:") {
		t.Errorf("check of a broken file: exit %d\n%s", exitCode(err), out)
	}
	if out, err = m.try("systemctl", "reload", "ntpveil"); err == nil {
		t.Errorf("the reload of a broken file did not fail: %s", out)
	}
	if log := m.run("journalctl", "--no-pager", "-u", "ntpveil"); !strings.Contains(log, "broken.toml:2:1: clock.mode") {
		t.Errorf("the journal does not say why the reload failed:\n%s", log)
	}
	m.run("rm", "/etc/ntpveil/conf.d/broken.toml")
	m.run("systemctl", "reload", "ntpveil")
	m.run("ntpveil", "status")
	if now := m.property("MainPID"); now != pid || m.property("ActiveState") != "active" {
		t.Errorf("PID %s became %s: %s", pid, now, m.property("ActiveState"))
	}
}

func timeSyncTargetWaits(t *testing.T, m *machine, _ *network) {
	m.run("systemctl", "start", "ntpveil-wait-sync.service")
	m.run("systemd-run", "--quiet", "--wait", "--property=After=time-sync.target", "true") // its job comes after the service's
	m.run("systemctl", "is-active", "time-sync.target")
}

func systemdIsContent(t *testing.T, m *machine, _ *network) {
	units := []string{"ntpveil.service", "ntpveil-wait-sync.service"}
	// No manual reader is installed in there; the pages have their own test.
	out := m.run("sh", "-c", `systemd-analyze verify --man=no "$@" 2>&1`, "sh", units[0], units[1])
	if out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	m.run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", units[0])
}

func timedatectlSwitches(t *testing.T, m *machine, _ *network) {
	m.run("timedatectl", "set-ntp", "false")
	// It does not wait for the stop; what is ordered after the unit does.
	m.run("systemd-run", "--quiet", "--wait", "--property=After=ntpveil.service", "true")
	if out, _ := m.try("systemctl", "is-active", "ntpveil"); strings.TrimSpace(out) != "inactive" {
		t.Errorf("after set-ntp false: %s", out)
	}
	if left := throwAways(m); left != "" {
		t.Errorf("an orderly stop left addresses behind:\n%s", left)
	}
	m.run("timedatectl", "set-ntp", "true")
	m.run("systemctl", "start", "ntpveil") // waits for the start that is under way
	if out := m.run("timedatectl", "show", "-p", "NTP", "--value"); strings.TrimSpace(out) != "yes" {
		t.Errorf("NTP service: %s", out)
	}
}

// throwAways are the deprecated addresses of the host's link; only ours are.
func throwAways(m *machine) string {
	m.t.Helper()
	return m.run("ip", "-6", "-oneline", "address", "show", "dev", "host0", "scope", "global", "deprecated")
}

func comesBackAfterKill(t *testing.T, m *machine, _ *network) {
	m.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "ntpveil")
	for range 200 { // a start would be done at once: systemd has not heard of the end yet
		if m.property("NRestarts") == "1" && m.property("ActiveState") == "active" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	m.run("ntpveil", "waitsync", "--timeout", "90s")
	if restarts := m.property("NRestarts"); restarts != "1" {
		t.Errorf("restarted %s times", restarts)
	}
}

// The saved clock is taken over from whoever had it. The container may not set its
// clock, so that the daemon has no server here, and saves at its stop.
func keepsTheSavedClock(t *testing.T, m *machine, _ *network) {
	const saved = "/var/lib/systemd/timesync/clock"
	m.run("systemctl", "stop", "ntpveil")
	m.run("mkdir", "-p", "/var/lib/systemd/timesync")
	m.run("touch", "--date=yesterday", saved)
	m.run("chown", "-R", "nobody", "/var/lib/systemd/timesync")
	m.write("/etc/ntpveil/conf.d/observe.toml", "[time]\nservers = [\"2001:db8:ffff::1\"]\n")
	m.run("systemctl", "start", "ntpveil")
	m.run("sh", "-c", "for i in $(seq 6); do systemctl restart ntpveil || exit; done") // an admin in a hurry
	if owner := m.run("stat", "--format=%U", saved); owner != "ntpveil\n" {
		t.Errorf("the saved clock belongs to %s", owner)
	}
	m.run("systemctl", "stop", "ntpveil")
	if out, err := m.try("find", saved, "-mmin", "-10"); err != nil || out == "" {
		t.Errorf("the clock was not saved at the stop: %v\n%s", err, m.run("journalctl", "--no-pager", "-n", "20", "-u", "ntpveil"))
	}
	if out, err := m.try("ls", "/run/systemd/timesync"); err == nil {
		t.Errorf("after the stop of a clock that was never synchronised: %s", out)
	}
	m.write("/etc/ntpveil/conf.d/observe.toml", observing)
	m.run("systemctl", "start", "ntpveil")
}

// install unpacks the package over whatever is there, as an upgrade does.
func (m *machine) install() {
	m.t.Helper()
	m.run("apt-get", "-y", "--reinstall", "install", "/root/ntpveil.deb")
}

func upgrades(t *testing.T, m *machine, _ *network) {
	m.run("ntpveil", "disarm", "--for", "1h")
	before, old := len(m.status().Exposures), m.property("MainPID")
	m.install()
	if now := m.property("MainPID"); now == old || m.property("ActiveState") != "active" || m.property("Result") != "success" {
		t.Errorf("PID %s became %s: %s, %s", old, now, m.property("ActiveState"), m.property("Result"))
	}
	s := m.status()
	if s.Shield.State != "in force" {
		t.Errorf("the shield is %s", s.Shield.State)
	}
	if len(s.Exposures) < before || before == 0 {
		t.Errorf("of %d exposures it remembers %d", before, len(s.Exposures))
	}
	if out, err := m.try("dpkg", "--verify", "ntpveil"); err != nil || out != "" {
		t.Errorf("dpkg --verify: %v %s", err, out)
	}
}

// An admin who looks for a fault starts the daemon by hand. The service has to
// start afterwards, whatever that one made.
func rootStartsItByHand(t *testing.T, m *machine, _ *network) {
	m.run("systemctl", "stop", "ntpveil")
	m.run("rm", "/var/lib/ntpveil/ledger.db")
	m.run("systemd-run", "--quiet", "--unit=by-hand", "--service-type=notify", "ntpveil", "daemon", "--observe-clock")
	if out, err := m.try("ntpveil", "daemon", "--observe-clock"); exitCode(err) != 1 || !strings.Contains(out, "another ntpveil runs in this network") {
		t.Errorf("a second daemon: exit %d\n%s", exitCode(err), out)
	}
	m.run("systemctl", "stop", "by-hand")
	m.run("systemctl", "start", "ntpveil")
}

// Two programs that steer one clock ruin it, were it for a moment: the rival
// starts when ours has stopped.
func rivalTakesOver(t *testing.T, m *machine, _ *network) {
	const unit = "/run/systemd/system/ntpsec.service"
	m.write(unit, "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sh -c 'systemctl is-active ntpveil >/run/ours || :'\n")
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "start", "ntpsec")
	if ours := strings.TrimSpace(m.run("cat", "/run/ours")); ours != "inactive" {
		t.Errorf("a rival starts while ntpveil is %s", ours)
	}
	m.run("systemctl", "start", "ntpveil")
	if out, _ := m.try("systemctl", "is-active", "ntpsec"); strings.TrimSpace(out) != "inactive" {
		t.Errorf("ntpveil started beside a rival that is %s", out)
	}
	m.run("rm", unit, "/run/ours")
	m.run("systemctl", "daemon-reload")
}

func removedAndBack(t *testing.T, m *machine, _ *network) {
	m.run("apt-get", "-y", "remove", "ntpveil")
	if left := throwAways(m); left != "" {
		t.Errorf("addresses are still there:\n%s", left)
	}
	m.run("ls", "/etc/ntpveil/conf.d/observe.toml", "/var/lib/ntpveil/ledger.db")
	m.install()
	if state := m.property("ActiveState"); state != "active" {
		t.Errorf("installed again, and %s", state)
	}
}

// files are all files of the machine that a package could leave behind.
func (m *machine) files() []string {
	m.t.Helper()
	return strings.Split(m.run("find", "/etc", "/usr", "/var", "/run", "/root", "/opt", "/srv", "/lib", "-xdev", "-not", "-type", "s"), "\n")
}

func purgeLeavesTheUserAlone(t *testing.T, m *machine, before []string) {
	m.run("apt-get", "-y", "purge", "ntpveil")
	for _, file := range m.files() {
		if !slices.Contains(before, file) && !othersBook(file) {
			t.Errorf("left behind: %s", file)
		}
	}
	if out, err := m.try("nft", "list", "table", "inet", "ntpveil"); err == nil {
		t.Errorf("the table is still there:\n%s", out)
	}
	if left := throwAways(m); left != "" {
		t.Errorf("addresses are still there:\n%s", left)
	}
	if shadow := m.run("getent", "shadow", "ntpveil"); !strings.HasPrefix(shadow, "ntpveil:!") {
		t.Errorf("the user is not locked: %s", shadow)
	}
}

// othersBook are files that dpkg, apt, systemd and the user database write for
// themselves whatever package comes and goes.
func othersBook(file string) bool {
	for _, prefix := range []string{"/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/", "/run/systemd/", "/run/log/",
		"/run/udev/", "/run/user/", "/var/lib/systemd/", "/run/dpkg/", "/etc/.pwd.lock", "/run/lock", "/var/tmp/"} {
		if strings.HasPrefix(file, prefix) {
			return !strings.Contains(file, "ntpveil") || strings.HasPrefix(file, "/var/l") && strings.Contains(file, "/dpkg") || strings.HasPrefix(file, "/var/log/")
		}
	}
	return slices.Contains([]string{"/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/run/agetty.reload"}, file)
}
