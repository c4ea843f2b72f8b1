package packaging

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	release  = "bookworm"
	packages = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,polkitd,policykit-1,nftables,iproute2," +
		"systemd-timesyncd,procps,kmod,udev,ca-certificates,libnss-systemd,apt," + others
	others = "firewalld,ufw,iptables,network-manager"
	// asleep, until a test starts it, is what these packages enable.
	asleep = `systemctl --root="$1" --quiet disable firewalld ufw NetworkManager NetworkManager-dispatcher NetworkManager-wait-online`
)

// machine is a container with a real systemd. What it changes in its root is
// gone when it ends. It never has CAP_SYS_TIME: the clock is the host's.
type machine struct {
	t      *testing.T
	leader string // PID of its init
}

// boot starts a machine in a network namespace and waits until systemd says
// that it is up. Each of binds is a file of the host and its place in there.
func boot(t *testing.T, in *namespace, binds ...string) *machine {
	t.Helper()
	needRoot(t)
	need(t, "systemd-nspawn", "mmdebstrap", "nsenter", "unshare", "zstd")
	args := []string{"-m", "--propagation", "private", "sh", "-c", ownCgroups, "sh",
		"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec systemd-nspawn "$@"`, cgroup(t), "-D", root(t), "--machine=ntpveil-test",
		"--network-namespace-path=" + in.path(), "--register=no", "--keep-unit", "--console=read-only", "--volatile=overlay",
		"--notify-ready=yes", "--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN", "--system-call-filter=bpf adjtimex clock_adjtime", "--boot"}
	for _, bind := range binds {
		args = append(args, "--bind-ro="+bind)
	}
	ready, address := notifySocket(t)
	var log bytes.Buffer
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = &log, &log
	nspawn := start(t, cmd)
	go func() { // one that failed says nothing more
		<-nspawn.ended
		_ = ready.SetReadDeadline(time.Now())
	}()
	m := &machine{t: t, leader: awaitLeader(ready)}
	if m.leader == "" {
		nspawn.end()
		t.Fatalf("the container did not boot\n%s", log.String())
	}
	return m
}

// ownCgroups runs its arguments with a unified hierarchy even where the host's is
// not: without one systemd does not boot.
const ownCgroups = `umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"`

// cgroup makes one and gives its path as ownCgroups shows it. Two containers in one
// cgroup take each other's processes for theirs.
func cgroup(t *testing.T) string {
	t.Helper()
	inside := func(script string, args ...string) string {
		return run(t, "unshare", append([]string{"-m", "--propagation", "private", "sh", "-c", ownCgroups, "sh", "sh", "-c", script}, args...)...)
	}
	path := strings.TrimSpace(inside("mktemp -d /sys/fs/cgroup/ntpveil-test-XXXXXX"))
	t.Cleanup(func() { // whoever outlived its nspawn goes
		inside(`echo 1 >"$0/cgroup.kill"; for i in $(seq 100); do find "$0" -depth -type d -exec rmdir {} \; 2>/dev/null; [ -d "$0" ] || exit 0; sleep 0.1; done`, path)
	})
	return path
}

// notifySocket is where nspawn tells how far the boot is, as a service manager
// would be told.
func notifySocket(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	address := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	return conn, address
}

// awaitLeader reads notifications until the boot is done; empty if it never is.
func awaitLeader(ready *net.UnixConn) (leader string) {
	up := false
	for buf := make([]byte, 4096); !up || leader == ""; {
		n, err := ready.Read(buf)
		if err != nil {
			return ""
		}
		for _, line := range strings.Split(string(buf[:n]), "\n") {
			if pid, ok := strings.CutPrefix(line, "X_NSPAWN_LEADER_PID="); ok {
				leader = pid
			}
			up = up || line == "READY=1"
		}
	}
	return leader
}

// try runs a command inside.
func (m *machine) try(args ...string) (string, error) {
	return try("nsenter", append([]string{"-t", m.leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"}, args...)...)
}

func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("in the container: %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// asUser runs a command inside as somebody without any right.
func (m *machine) asUser(args ...string) (string, error) {
	return m.try(append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, args...)...)
}

func (m *machine) write(path, text string) {
	m.t.Helper()
	m.run("sh", "-c", `mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"`, "sh", path, text)
}

// property is one of the unit's properties, as systemctl shows it.
func (m *machine) property(name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--value", "-p", name, "ntpveil.service"))
}

// root is the file system that containers start from, built once and cached.
func root(t *testing.T) string {
	t.Helper()
	sum := fnv.New32a()
	sum.Write([]byte(packages + asleep))
	dir := filepath.Join(cacheDir(), fmt.Sprintf("%s-%08x", release, sum.Sum32()))
	if err := os.MkdirAll(cacheDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	defer locked(t, dir+".lock")()
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	t.Log("building a Debian root, once")
	if err := os.RemoveAll(dir + ".new"); err != nil {
		t.Fatal(err)
	}
	run(t, "mmdebstrap", "--quiet", "--variant=minbase", "--include="+packages, "--customize-hook="+asleep, release, dir+".new", mirror(t))
	// Empty: each boot is a machine of its own, and none a first boot.
	if err := os.WriteFile(dir+".new/etc/machine-id", nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".new", dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func cacheDir() string {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return dir + "/ntpveil-test"
	}
	return "/var/cache/ntpveil-test"
}

// mirror is where this host's apt gets Debian from.
func mirror(t *testing.T) string {
	t.Helper()
	list := run(t, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages", "Label: Debian")
	first, _, _ := strings.Cut(list, "\n")
	if first == "" {
		t.Skip("needs a Debian mirror: apt has none")
	}
	return first
}

// locked keeps another run of the tests out until the returned function is called.
func locked(t *testing.T, path string) func() {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { file.Close() }
}

// pid as text, for paths below /proc.
func pid() string { return strconv.Itoa(os.Getpid()) }
