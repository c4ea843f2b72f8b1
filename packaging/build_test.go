package packaging

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unpacked is the tree as somebody has it who got it without git, in a place with
// spaces in its name.
func unpacked(t *testing.T) string {
	t.Helper()
	need(t, "go", "git", "make", "tar")
	dir := filepath.Join(t.TempDir(), "a place", "ntp veil")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	deb(t) // its sources are what is packed, whoever edits the tree now
	copied := exec.Command("cp", "-a", filepath.Join(built.dir, "deb", "ntpveil")+"/.", dir)
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	for _, made := range []string{"debian", "bin", "dist"} {
		if err := os.RemoveAll(filepath.Join(dir, made)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Who builds under a tight umask, into a place with spaces, installs what others
// can read; and the configuration that is there stays.
func TestInstallWhereverAndHoweverBuilt(t *testing.T) {
	need(t, "scdoc")
	dir := unpacked(t)
	dest := filepath.Join(filepath.Dir(dir), "dest dir")
	script := `umask 077; cd "$1" && make install DESTDIR="$2" PREFIX=/opt/veil && echo mine >"$2/etc/ntpveil/ntpveil.toml" && make install DESTDIR="$2" PREFIX=/opt/veil`
	run(t, "sh", "-c", script, "sh", dir, dest)
	err := filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&0o444 != 0o444 {
			t.Errorf("%s: %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if unit := read(t, dest+"/opt/veil/lib/systemd/system/ntpveil.service"); !strings.Contains(unit, "\nExecStart=/opt/veil/bin/ntpveil daemon\n") || strings.Contains(unit, "/usr/bin/ntpveil") {
		t.Errorf("the unit starts something else:\n%s", unit)
	}
	for who, file := range map[string]string{"NetworkManager": "/etc/NetworkManager/dispatcher.d/50-ntpveil", "zsh": "/opt/veil/share/zsh/site-functions/_ntpveil"} {
		if _, err := os.Stat(dest + file); err != nil {
			t.Errorf("%s looks nowhere that anything lies: %v", who, err)
		}
	}
	if kept := read(t, dest+"/etc/ntpveil/ntpveil.toml"); kept != "mine\n" {
		t.Errorf("the configuration was replaced by %q", kept)
	}
}

// A tree without git builds the package too, and takes nothing from a repository
// that it happens to lie in.
func TestPackageFromATreeWithoutGit(t *testing.T) {
	dir := unpacked(t)
	outer := filepath.Dir(dir)
	run(t, "sh", "-c", `cd "$1" && git init -q && echo '*' >.gitignore && git add -f .gitignore && git -c user.name=a -c user.email=a@b.example commit -qm outer`, "sh", outer)
	first, log, err := buildDeb(filepath.Join(dir, "packaging", "build-deb"), filepath.Join(outer, "out put"))
	if err != nil {
		t.Fatalf("build: %v\n%s", err, log)
	}
	if digest(t, first) != digest(t, deb(t)) {
		t.Error("it is another package than that of a clone")
	}
	if out := run(t, "make", "--no-print-directory", "-C", dir, "-n", "build"); !strings.Contains(out, "buildCommit=unknown") || !strings.Contains(out, "buildDate= ") {
		t.Errorf("the commit of another repository:\n%s", out)
	}
}
