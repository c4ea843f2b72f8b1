package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/lab"
)

// rules runs a rules command on the host, its trials kept in the test's directory.
func (h *host) rules(args ...string) *lab.Cmd {
	return h.program(append([]string{"rules", "--trials", h.path("trials")}, args...)...)
}

// must runs a rules command that has to work and returns what it says.
func (h *host) must(args ...string) string {
	h.Helper()
	out, err := h.rules(args...).CombinedOutput()
	if err != nil {
		h.Fatalf("rules %v: %v: %s", args, err, out)
	}
	return string(out)
}

// refused runs a rules command that has to be refused with that status and reason.
func (h *host) refused(code int, why string, args ...string) {
	h.Helper()
	out, err := h.rules(args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code || !strings.Contains(string(out), why) {
		h.Errorf("rules %v: %v, want exit status %d with %q: %s", args, err, code, why, out)
	}
}

// login runs a rules command as from a new login: another audit session, which
// begins now.
func (h *host) login(args ...string) (string, error) {
	time.Sleep(20 * time.Millisecond) // /proc tells the time of a start in hundredths of a second
	c := h.rules(args...)
	c.Args[0], _ = os.Executable()
	shell := h.lab.Host.Command(context.Background(), "sh", append([]string{"-c", `umask 077; echo 0 > /proc/self/loginuid && exec "$@"`, "sh"}, c.Args...)...)
	shell.Env = c.Env
	out, err := shell.CombinedOutput()
	return string(out), err
}

// canLogin: in a user namespace nobody may begin an audit session.
func canLogin(t *testing.T) {
	t.Helper()
	if err := exec.CommandContext(t.Context(), "sh", "-c", "echo 0 > /proc/self/loginuid").Run(); err != nil {
		t.Skip("an audit session of its own needs root and a kernel with audit")
	}
}

var runs = regexp.MustCompile(`(?s)\n\t\telements = \{[^}]*timeout[^}]*\}|packets \d+ bytes \d+| timeout \d+[a-z0-9]*ms`)

// table is what nft lists of the table, without what runs out or counts; empty:
// there is none.
func (h *host) table() string {
	out, err := h.nft("list", "table", "inet", "ntpveil")
	if err != nil {
		return ""
	}
	return runs.ReplaceAllString(string(out), "")
}

// awaitTable waits until the table is as wanted.
func (h *host) awaitTable(what string, within time.Duration, ok func(string) bool) {
	h.Helper()
	for end := time.Now().Add(within); ; time.Sleep(20 * time.Millisecond) {
		got := h.table()
		if ok(got) {
			return
		}
		if time.Now().After(end) {
			h.Fatalf("%s: after %s the table is\n%s", what, within, got)
		}
	}
}

// awaitNoWatcher waits until no process watches a trial of this host.
func (h *host) awaitNoWatcher(within time.Duration) {
	h.Helper()
	for end := time.Now().Add(within); len(h.watchers()) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("somebody watches after %s", within)
		}
	}
}

// watchers are the processes that wait to roll back.
func (h *host) watchers() (pids []int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range lines {
		text, _ := os.ReadFile(file)
		if strings.Contains(string(text), "\x00watch\x00--trials\x00"+h.path("trials")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func preset(name string) func(string) bool {
	return func(table string) bool { return strings.Contains(table, "preset "+name+"\"") }
}

// TestApplyAndLoseContact: without a daemon, and with the command killed as soon as
// the rules are in force, they are back as they were when the time is up, those of
// somebody else included.
func TestApplyAndLoseContact(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	h.must("apply", "companion", "--confirm", "0")
	for _, args := range [][]string{{"add", "chain", "inet", "ntpveil", "mine"},
		{"add", "rule", "inet", "ntpveil", "mine", "tcp", "dport", "{ 80, 443 }", "counter", "accept"}} {
		if _, err := h.nft(args...); err != nil {
			t.Fatal(err)
		}
	}
	before := h.table()

	c := h.rules("apply", "lockdown", "--confirm", "2s")
	began := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	h.awaitTable("applied", 20*time.Second, preset("lockdown"))
	_ = unix.Kill(-c.Process.Pid, unix.SIGKILL) // and its group, as a terminal does
	_ = c.Wait()
	h.awaitTable("rolled back", 20*time.Second, func(table string) bool { return table == before })
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it came back after %s", took)
	}
	h.refused(1, "no preset waits", "confirm")
	h.refused(1, "nothing to revert", "revert")
}

// TestNothingKeepsTheRollBackFrom happening: no lock of a command that was stopped, no end
// of the service that it was applied from, no name of a file from where it was typed.
func TestNothingKeepsTheRollBackFrom(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	h.must("apply", "server", "--confirm", "0")
	before := h.table()
	back := func(table string) bool { return table == before }

	h.must("apply", "lockdown", "--confirm", "1s")
	held, err := os.Open(h.path("trials"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	h.awaitTable("rolled back, whoever holds the lock", 30*time.Second, back)
	held.Close()

	h.must("apply", "lockdown", "--confirm", "1h")
	for _, pid := range h.watchers() {
		for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGTERM} {
			if err := unix.Kill(pid, sig); err != nil {
				t.Error(err)
			}
		}
	}
	h.awaitTable("rolled back at the end of the service", 10*time.Second, back)

	c := h.lab.Host.Command(t.Context(), h.binary, "--config", "ntpveil.toml", "rules", "--trials", "trials", "apply", "lockdown", "--confirm", "1s")
	c.Dir, c.Env = h.dir, append(os.Environ(), asProgram+"=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h.awaitTable("rolled back from elsewhere", 20*time.Second, back)
}

// TestApplyWithoutAnAnswer: the daemon may have put it in force, so that it stays known and
// is rolled back.
func TestApplyWithoutAnAnswer(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	l, err := net.Listen("unix", h.path("control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			if strings.Contains(line, `"status"`) {
				_, _ = io.WriteString(c, `{"status":{}}`+"\n")
			}
			_ = c.Close()
		}
	}()
	h.refused(1, "it may be in force, and is rolled back in 1h0m0s", "apply", "server", "--confirm", "1h")
	if _, err := os.Stat(h.path("trials/trial.json")); err != nil || len(h.watchers()) != 1 {
		t.Errorf("it is forgotten: %v, %d watch", err, len(h.watchers()))
	}
	for _, pid := range h.watchers() {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
}

// TestApplyAlone: without a daemon it is confirmed, reverted and removed.
func TestApplyAlone(t *testing.T) {
	canLogin(t)
	h := install(t, lab.Options{}, basics)
	h.refused(1, "+\tcomment \"ntpveil shield, preset server\"", "diff", "server")
	if got := h.table(); got != "" {
		t.Errorf("diff made\n%s", got)
	}
	h.must("apply", "server", "--confirm", "1h")
	if out := h.must("diff", "server"); out != "" {
		t.Errorf("what is applied differs:\n%s", out)
	}
	h.refused(1, "waits to be confirmed", "apply", "lockdown")
	h.refused(1, "the session that it was applied from", "confirm")
	visits := func(verb string) {
		t.Helper()
		if _, err := h.nft(verb, "counter", "inet", "ntpveil", "visits"); err != nil {
			t.Fatal(err)
		}
	}
	visits("add") // what could not be put back does not hinder who keeps it
	if out, err := h.login("confirm"); err != nil || !strings.Contains(out, "preset server holds") {
		t.Fatalf("confirm from a new login: %v: %s", err, out)
	}
	visits("delete")
	h.awaitNoWatcher(20 * time.Second) // nothing is to come any more
	h.awaitTable("confirmed", 0, preset("server"))

	if out := h.must("apply", "router", "--confirm", "1h", "--json"); out != "{\n  \"preset\": \"router\",\n  \"confirm_s\": 3600\n}\n" {
		t.Errorf("apply --json says %s", out)
	}
	h.must("revert")
	h.awaitTable("reverted", 0, preset("server"))
	h.awaitNoWatcher(20 * time.Second) // nor does anybody wait for the end of that hour
	h.must("apply", "lockdown", "--confirm", "1500ms")
	h.must("remove")
	time.Sleep(2 * time.Second)
	if got := h.table(); got != "" {
		t.Errorf("after its removal there is\n%s", got)
	}
	h.must("apply", "lockdown", "--confirm", "1h")
	if _, err := h.nft("flush", "ruleset"); err != nil {
		t.Fatal(err)
	}
	if out, err := h.login("confirm"); err == nil || !strings.Contains(out, "preset lockdown is in force no longer") {
		t.Errorf("confirm what is not there: %v: %s", err, out)
	}
	h.must("revert")
	h.refused(2, "takes 0, or a time", "apply", "server", "--confirm", "30h")
	h.refused(2, "find preset none", "apply", "none")
}

// TestApplyUnderDaemon: the daemon rolls back, with the command killed; a daemon
// that is killed meanwhile does so when it is back; and where none comes back, or it
// answers nobody, somebody else does.
func TestApplyUnderDaemon(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	s := h.start()
	h.awaitTable("started", 10*time.Second, preset("workstation"))
	before := h.table()
	back := func(table string) bool { return table == before }

	c := h.rules("apply", "lockdown", "--confirm", "2s")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	h.awaitTable("applied", 20*time.Second, preset("lockdown"))
	_ = unix.Kill(-c.Process.Pid, unix.SIGKILL)
	_ = c.Wait()
	h.awaitTable("rolled back by the daemon", 20*time.Second, back)
	if got := h.status().Shield; got.Preset != "workstation" || got.State != "in force" || got.Applied {
		t.Errorf("status %+v", got)
	}

	h.must("apply", "lockdown", "--confirm", "6s")
	applied := time.Now()
	h.killed(s)
	s = h.start()
	if got := h.status().Shield; time.Since(applied) < 5*time.Second && (got.Preset != "lockdown" || got.ConfirmBy == nil) {
		t.Errorf("status of the next daemon %+v", got)
	}
	h.awaitTable("rolled back by the next daemon", 20*time.Second, back)
	if took := time.Since(applied); took < 5*time.Second {
		t.Errorf("it came back after %s", took)
	}

	h.must("apply", "lockdown", "--confirm", "2s")
	h.killed(s)
	h.awaitTable("left by the daemon", 0, preset("lockdown"))
	h.awaitTable("rolled back without a daemon", 20*time.Second, back)
	s = h.start()
	if got := h.status().Shield; got.Preset != "workstation" {
		t.Errorf("status of a daemon that came late %+v", got)
	}

	h.must("apply", "lockdown", "--confirm", "2s")
	for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGCONT} {
		if err := s.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		h.awaitTable("rolled back from a daemon that hung", 20*time.Second, back)
	}
	if got := h.status().Shield; got.Preset != "workstation" || got.Applied {
		t.Errorf("status of a daemon that hung %+v", got)
	}
	s.stop()
}

// killed kills a daemon, which nobody starts again.
func (h *host) killed(s *service) {
	h.Helper()
	if err := s.Process.Kill(); err != nil {
		h.Fatal(err)
	}
	_ = s.Wait()
}

// TestConfirmUnderDaemon: only a login that began later confirms; --save makes it
// permanent; nobody takes the table from under the daemon.
func TestConfirmUnderDaemon(t *testing.T) {
	canLogin(t)
	h := install(t, lab.Options{}, basics)
	s := h.start()
	h.awaitTable("started", 10*time.Second, preset("workstation"))
	if out := h.must("diff", "workstation"); out != "" {
		t.Errorf("what is in force differs:\n%s", out)
	}
	h.refused(1, "-\tcomment \"ntpveil shield, preset workstation\"\n+\tcomment \"ntpveil shield, preset server\"", "diff", "server")
	h.refused(2, "find preset none", "apply", "none")
	h.refused(1, "ntpveil-companion.service", "apply", "companion")
	h.refused(1, "ntpveil disarm", "remove")
	h.refused(1, "nothing to revert", "revert")
	h.refused(1, "no preset waits", "confirm")

	ssh := h.rules("apply", "lockdown")
	ssh.Env = append(ssh.Env, "SSH_CONNECTION=198.51.100.7 40000 192.0.2.10 2222")
	if out, err := ssh.CombinedOutput(); err == nil || !strings.Contains(string(out), "would cut the session that this was typed in, from 198.51.100.7 to tcp/2222") {
		t.Errorf("apply by ssh: %v: %s", err, out)
	}

	h.must("apply", "server", "--confirm", "1h")
	h.refused(1, "the session that it was applied from", "confirm")
	if out, err := h.login("confirm", "--save"); err != nil {
		t.Fatalf("confirm from a new login: %v: %s", err, out)
	}
	if got := h.status().Shield; got.Preset != "server" || !got.Applied || got.ConfirmBy != nil {
		t.Errorf("status %+v", got)
	}
	text, err := os.ReadFile(filepath.Join(h.dir, "conf.d", "90-preset.toml"))
	if err != nil || !strings.Contains(string(text), "[shield]\npreset = \"server\"\n") {
		t.Errorf("saved: %q, error %v", text, err)
	}
	for file, want := range map[string]os.FileMode{"conf.d": 0o755, "conf.d/90-preset.toml": 0o644} {
		if got, err := os.Stat(h.path(file)); err != nil || got.Mode().Perm() != want {
			t.Errorf("%s is not for the daemon to read: %v, %v", file, got.Mode(), err)
		}
	}
	if out := h.must("confirm", "--save"); !strings.Contains(out, "preset server holds, and") {
		t.Errorf("saved again, it says %s", out)
	}
	if out := h.must("revert"); !strings.Contains(out, "90-preset.toml stays") {
		t.Errorf("revert says %s", out)
	}
	h.awaitTable("reverted", 10*time.Second, preset("workstation"))
	s.stop()
}

// TestReportWhileObserving: what a scan of a throw-away address would have met is
// counted for the server that was shown it.
func TestReportWhileObserving(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics+"[shield]\npreset = \"observe\"\n")
	h.hurry()
	s := h.start()
	shown := h.synced(10 * time.Second).Exposures
	if len(shown) == 0 {
		t.Fatal("nothing is exposed")
	}
	target := netip.MustParseAddr(shown[0].Address)
	if _, err := h.lab.Scanner.Scan(t.Context(), lab.Scan{Target: target, TCP: []uint16{22, 80, 443}}); err != nil {
		t.Fatal(err)
	}
	var r dropped
	h.json(&r, "rules", "report", "--json")
	if r.Enforced || r.State != "observing" || r.Packets < 3 || len(r.Servers) == 0 || r.Servers[0].Server != shown[0].Server || r.Servers[0].To < 3 || r.Servers[0].Probed != 1 {
		t.Errorf("%+v, want the scan of %s counted for %s", r, target, shown[0].Server)
	}
	out, err := h.rules("report").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "packets would have been dropped") {
		t.Errorf("%v: %s", err, out)
	}
	s.stop()
	if out := h.must("report"); !strings.Contains(out, "Preset observe, shield observing: ") || !strings.Contains(out, "unknown") {
		t.Errorf("without the daemon: %s", out)
	}
	h.must("remove")
	h.refused(3, "does not run", "report")
}

// TestShieldWinsWithoutADaemon: its keys are over the preset that is applied, rendered
// and compared with.
func TestShieldWinsWithoutADaemon(t *testing.T) {
	h := install(t, lab.Options{}, basics+"[shield]\nallow = [\"tcp/22\", \"tcp/8443\"]\ntrusted = [\"203.0.113.0/24\"]\nmode = \"observe\"\nowner = true\n")
	said := func(table string) bool {
		return preset("lockdown")(table) && strings.Contains(table, "tcp dport { 22, 8443 }") && strings.Contains(table, "203.0.113.0/24") && strings.Contains(table, "observing, not dropped")
	}
	if text := h.must("render", "lockdown"); !said(text) {
		t.Errorf("rendered:\n%s", text)
	}
	h.must("apply", "lockdown", "--confirm", "0")
	h.awaitTable("applied", 0, said)
	if text := h.must("diff", "lockdown"); text != "" {
		t.Errorf("what is applied differs:\n%s", text)
	}
}

// TestShieldThatIsOffWithoutADaemon: nothing is put up, and what the companion's unit
// loads takes away what is there.
func TestShieldThatIsOffWithoutADaemon(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	h.must("apply", "companion", "--confirm", "0")
	h.configure(basics + "[shield]\nmode = \"off\"\n")
	const why = "the shield is switched off (shield.mode)"
	h.refused(1, why, "apply", "server", "--confirm", "0")
	h.refused(1, why, "diff", "server")
	h.awaitTable("refused", 0, preset("companion"))
	if text := h.must("render", "companion"); !strings.Contains(text, why) || strings.Contains(text, "table") {
		t.Errorf("rendered:\n%s", text)
	}
	for _, how := range []string{"--renew", "--replace"} { // the second finds none
		load := h.rules("render", "companion", how)
		text, err := load.Output()
		if err != nil {
			t.Fatal(err)
		}
		nft := h.lab.Host.Command(t.Context(), "nft", "-f", "-")
		nft.Stdin = bytes.NewReader(text)
		if out, err := nft.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", how, err, out)
		}
		if out, err := h.nft("list", "tables"); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", how, err, out)
		}
	}
}

// TestRevertForesees what [shield] says over the preset that comes back, too.
func TestRevertForesees(t *testing.T) {
	h := install(t, lab.Options{}, basics+"[shield]\nallow = [\"tcp/8443\"]\n")
	h.must("apply", "lockdown", "--confirm", "0")
	h.must("apply", "server", "--confirm", "0")
	revert := func(port string) ([]byte, error) {
		ssh := h.rules("revert")
		ssh.Env = append(ssh.Env, "SSH_CONNECTION=198.51.100.7 40000 192.0.2.10 "+port)
		return ssh.CombinedOutput()
	}
	if out, err := revert("22"); err == nil || !strings.Contains(string(out), "preset lockdown would cut the session") {
		t.Errorf("to a port that is not allowed: %v: %s", err, out)
	}
	if out, err := revert("8443"); err != nil {
		t.Errorf("to the port that is allowed: %v: %s", err, out)
	}
}

// TestReportWithoutADaemon: what the companion dropped, by the network that it came from.
func TestReportWithoutADaemon(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	h.must("apply", "companion", "--confirm", "0")
	network, err := h.lab.Scanner.Addr6.Prefix(48)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := h.nft("add", "element", "inet", "ntpveil", "learnt6", "{ "+network.Masked().Addr().String()+" timeout 1h }"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := h.lab.Scanner.Scan(t.Context(), lab.Scan{Target: h.lab.Host.Addr6, TCP: []uint16{80, 443}}); err != nil {
		t.Fatal(err)
	}
	var r dropped
	h.json(&r, "rules", "report", "--json")
	if !r.Enforced || r.Preset != "companion" || r.Packets < 2 || len(r.Servers) != 0 || len(r.Others) != 1 || r.Others[0].Prefix != network.String() {
		t.Errorf("%+v, want the scan from %s", r, network)
	}
}

// TestReloadUnderAnAppliedPreset: the keys of [shield] are in force then, over the
// preset that was applied.
func TestReloadUnderAnAppliedPreset(t *testing.T) {
	h := install(t, lab.Options{}, basics)
	s := h.start()
	h.awaitTable("started", 10*time.Second, preset("workstation"))
	h.must("apply", "lockdown", "--confirm", "0")
	h.awaitTable("applied", 0, preset("lockdown"))
	h.configure(basics + "[shield]\nmode = \"observe\"\nallow = [\"tcp/22\", \"tcp/8443\"]\ntrusted = [\"203.0.113.0/24\"]\n")
	if err := s.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.log.await(t, 5*time.Second, with("configuration reloaded; preset lockdown, which was applied, holds"))
	h.awaitTable("reloaded", 10*time.Second, func(table string) bool {
		return preset("lockdown")(table) && strings.Contains(table, "tcp dport { 22, 8443 }") && strings.Contains(table, "203.0.113.0/24") && strings.Contains(table, "observing, not dropped")
	})
	s.stop()
}

// TestReportOfAPerimeter: what lockdown would keep out of everybody is counted before
// it does so, by the network that it comes from, for the group to see.
func TestReportOfAPerimeter(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics+"[shield]\npreset = \"lockdown\"\nmode = \"observe\"\n")
	s := h.start()
	h.awaitTable("started", 10*time.Second, preset("lockdown"))
	if _, err := h.lab.Scanner.Scan(t.Context(), lab.Scan{Target: h.lab.Host.Addr6, TCP: []uint16{22, 80, 443}}); err != nil {
		t.Fatal(err)
	}
	network, _ := h.lab.Scanner.Addr6.Prefix(48)
	var r dropped
	h.json(&r, "rules", "report", "--json")
	scanned := func(o guard.OtherStatus) bool { return o.Prefix == network.String() && o.Dropped >= 2 }
	if !slices.ContainsFunc(r.Others, scanned) || r.FromOthers < 2 || r.Packets < r.FromOthers || r.Enforced {
		t.Errorf("%+v, want the scan from %s", r, network)
	}
	out, err := h.rules("report").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "From others") || !strings.Contains(string(out), network.String()) {
		t.Errorf("%v: %s", err, out)
	}
	s.stop()
}
