package packaging

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestLintianIsContent(t *testing.T) {
	need(t, "lintian")
	out, err := try("lintian", "--fail-on", "error,warning", "--allow-root", deb(t), companion(t))
	if err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	overrides, err := os.ReadFile("debian/ntpveil.lintian-overrides")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(overrides)), "\n") {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "statically-linked-binary") {
			t.Errorf("overrides more than the static binary: %s", line)
		}
	}
}

// Whoever builds it elsewhere, or later, gets the same bytes.
func TestPackageIsReproducible(t *testing.T) {
	first := deb(t)
	copied := filepath.Join(built.dir, "deb", "ntpveil", "packaging", "build-deb") // of the same sources, whoever edits them now
	second, log, err := buildDeb(copied, t.TempDir())
	if err != nil {
		t.Fatalf("build again: %v\n%s", err, log)
	}
	if digest(t, first) != digest(t, second) {
		t.Error("two builds in two places differ")
	}
}

func digest(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}

func TestPackageTakesThePlaceOfEveryTimeDaemon(t *testing.T) {
	for _, field := range []string{"Provides", "Conflicts", "Replaces"} {
		if got := strings.TrimSpace(run(t, "dpkg-deb", "-f", deb(t), field)); got != "time-daemon" {
			t.Errorf("%s: %q", field, got)
		}
	}
}

// TestCompanionPackage stands beside other time daemons, with the program and the
// units that load the rules, and nothing of the daemon.
func TestCompanionPackage(t *testing.T) {
	path := companion(t)
	if got := run(t, "dpkg-deb", "-f", path, "Conflicts"); strings.TrimSpace(got) != "ntpveil" {
		t.Errorf("Conflicts: %q", got)
	}
	dir := t.TempDir()
	run(t, "dpkg", "-x", path, dir)
	holds := func(file string) bool { // later releases of Debian keep units below /usr
		_, err := os.Stat(filepath.Join(dir, file))
		_, below := os.Stat(filepath.Join(dir, "usr", file))
		return err == nil || below == nil
	}
	for _, want := range []string{"bin/ntpveil", "lib/systemd/system/ntpveil-companion.service", "lib/systemd/system/ntpveil-companion-online.service",
		"lib/systemd/system/nftables.service.d/ntpveil-companion.conf",
		"share/man/man5/ntpveil-preset.5.gz", "share/ntpveil/presets/companion.toml", "share/doc/ntpveil-companion/third-party.txt.gz"} {
		if !holds(want) {
			t.Errorf("not in the package: %s", want)
		}
	}
	for _, alien := range []string{"lib/systemd/system/ntpveil.service", "etc/ntpveil/ntpveil.toml", "lib/systemd/ntp-units.d"} {
		if holds(alien) {
			t.Errorf("in the package: %s", alien)
		}
	}
	scripts := t.TempDir()
	run(t, "dpkg", "-e", path, scripts)
	post := read(t, scripts+"/postinst")
	if !strings.Contains(post, "enable 'ntpveil-companion.service'") {
		t.Errorf("postinst:\n%s", post)
	}
}

func companion(t *testing.T) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Dir(deb(t)) + "/ntpveil-companion_*.deb")
	if err != nil || len(all) != 1 {
		t.Fatalf("packages %v, %v", all, err)
	}
	return all[0]
}

func TestPackageHoldsWhatItShould(t *testing.T) {
	var files []string
	for _, line := range strings.Split(run(t, "dpkg-deb", "-c", deb(t)), "\n") {
		if i := strings.LastIndex(line, " ./"); i > 0 && !strings.HasSuffix(line, "/") {
			files = append(files, line[i+2:])
		}
	}
	for _, want := range []string{
		"/usr/bin/ntpveil", "/lib/systemd/system/ntpveil.service", "/lib/systemd/system/ntpveil-wait-sync.service",
		"/usr/lib/systemd/ntp-units.d/50-ntpveil.list", "/usr/lib/sysusers.d/ntpveil.conf", "/usr/lib/tmpfiles.d/ntpveil.conf",
		"/etc/ntpveil/ntpveil.toml", "/usr/share/man/man8/ntpveil.8.gz", "/usr/share/man/man5/ntpveil.toml.5.gz",
		"/usr/share/man/man5/ntpveil-preset.5.gz", "/usr/share/ntpveil/presets/server.toml",
		"/usr/share/bash-completion/completions/ntpveil", "/usr/share/zsh/vendor-completions/_ntpveil",
		"/usr/share/fish/vendor_completions.d/ntpveil.fish", "/usr/share/doc/ntpveil/third-party.txt.gz",
		"/etc/dhcp/dhclient-exit-hooks.d/ntpveil", "/usr/lib/NetworkManager/dispatcher.d/50-ntpveil",
	} {
		// Later releases of Debian keep units below /usr.
		if !slices.Contains(files, want) && !slices.Contains(files, "/usr"+want) {
			t.Errorf("not in the package: %s", want)
		}
	}
	dir := t.TempDir()
	run(t, "dpkg", "-e", deb(t), dir)
	conffiles, err := os.ReadFile(filepath.Join(dir, "conffiles"))
	if err != nil || strings.TrimSpace(string(conffiles)) != "/etc/dhcp/dhclient-exit-hooks.d/ntpveil\n/etc/ntpveil/ntpveil.toml" {
		t.Errorf("conffiles: %q, %v", conffiles, err)
	}
}

// Whoever hands a binary out hands out the terms of what is linked into it.
func TestPackageHoldsEveryLicence(t *testing.T) {
	dir := t.TempDir()
	run(t, "dpkg", "-x", deb(t), dir)
	terms := run(t, "gzip", "-dc", dir+"/usr/share/doc/ntpveil/third-party.txt.gz")
	modules := 0
	for _, line := range strings.Split(run(t, "go", "version", "-m", dir+"/usr/bin/ntpveil"), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "dep" {
			modules++
			if !strings.Contains(terms, "==== "+fields[1]+" "+fields[2]+": LIC") {
				t.Errorf("no terms of %s", fields[1])
			}
		}
	}
	if modules == 0 || !strings.Contains(terms, "The Go Authors") || !strings.Contains(terms, ": NOTICE\n") {
		t.Errorf("%d modules:\n%.400s", modules, terms)
	}
}

// The pool's terms: a vendor zone, and only names under 2. carry IPv6.
func TestPackageAsksDebiansZone(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ntpveil.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(t, program(t), "check", empty, "--print-effective"); !strings.Contains(out, "2.debian.pool.ntp.org") {
		t.Errorf("default pool:\n%s", out)
	}
}
