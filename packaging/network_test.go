package packaging

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a network of its own. It lives as long as its handle.
type namespace struct {
	t      *testing.T
	handle *os.File
}

// newNamespace makes one on a thread that is then thrown away with its goroutine:
// unlocked, it would be used again for goroutines that belong to the host.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t: t}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		handle, err := os.Open("/proc/thread-self/ns/net")
		n.handle = handle
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.handle.Close() })
	n.run("ip", "link", "set", "lo", "up")
	return n
}

func onThread(work func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- work()
	}()
	return <-done
}

func (n *namespace) path() string {
	return fmt.Sprintf("/proc/%s/fd/%d", pid(), n.handle.Fd())
}

func (n *namespace) run(args ...string) string {
	n.t.Helper()
	return run(n.t, "nsenter", append([]string{"--net=" + n.path(), "--"}, args...)...)
}

// start runs a program in the namespace until the test ends.
func (n *namespace) start(args ...string) {
	n.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + n.path(), "--"}, args...)...)
	log, err := os.Create(filepath.Join(n.t.TempDir(), "log"))
	if err != nil {
		n.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	running := start(n.t, cmd)
	n.t.Cleanup(func() {
		running.end()
		if text, _ := os.ReadFile(log.Name()); n.t.Failed() {
			n.t.Logf("%s:\n%s", strings.Join(args, " "), text)
		}
		log.Close()
	})
}

// enter works in the namespace, on a thread that ends with it.
func (n *namespace) enter(work func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.handle.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return work()
	})
}

// listen opens a UDP socket in the namespace.
func (n *namespace) listen(address string) *net.UDPConn {
	n.t.Helper()
	var conn *net.UDPConn
	err := n.enter(func() error {
		at, err := net.ResolveUDPAddr("udp6", address)
		if err == nil {
			conn, err = net.ListenUDP("udp6", at)
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// network is a host's link with a router that advertises a prefix, and behind it
// three servers, real ones, whose time is shift away from this machine's.
type network struct {
	host    *namespace
	router  *namespace
	servers []string
	beside  string // control socket of a chronyd that asks the same servers
	socks   []string
}

const shift = 250 * time.Millisecond

func newNetwork(t *testing.T) *network {
	t.Helper()
	needRoot(t)
	need(t, "chronyd", "chronyc", "radvd", "nsenter", "ip")
	router := newNamespace(t)
	lan := &network{host: newNamespace(t), router: router, servers: []string{"2001:db8:a::123", "2001:db8:b::123", "2001:db8:c::123"}}
	lan.wire(router)
	advertise(t, router)
	serveShifted(router.listen("[2001:db8:ff::123]:123"))
	dir := filepath.Join(t.TempDir(), "chrony") // chronyd wants its sockets in a private place
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, server := range lan.servers {
		sock := fmt.Sprintf("%s/server%d.sock", dir, i)
		lan.socks = append(lan.socks, sock)
		chronyd(router, sock, "server 2001:db8:ff::123 iburst minpoll 0 maxpoll 4", "bindaddress "+server, "allow ::/0")
	}
	lan.beside = dir + "/beside.sock"
	var asks []string
	for _, server := range lan.servers {
		asks = append(asks, "server "+server+" iburst minpoll 2 maxpoll 4")
	}
	chronyd(router, lan.beside, append(asks, "port 0")...)
	return lan
}

// wire joins the host to the router. Forwarding comes before the links: a router
// must not take advertisements.
func (n *network) wire(router *namespace) {
	router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	for _, address := range append([]string{"2001:db8:ff::123"}, n.servers...) {
		router.run("ip", "address", "add", address+"/128", "dev", "lo", "nodad")
	}
	router.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "host0", "netns", n.host.path())
	router.run("ip", "address", "add", "2001:db8:1::1/64", "dev", "lan", "nodad")
	router.run("ip", "link", "set", "lan", "up")
	n.host.run("ip", "link", "set", "host0", "up")
}

func advertise(t *testing.T, router *namespace) {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "radvd.conf")
	text := "interface lan { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix 2001:db8:1::/64 { }; };\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	router.start("radvd", "-n", "-m", "stderr", "-C", conf, "-p", conf+".pid")
}

// chronyd runs one with a control socket and these lines of configuration. -x: it
// never touches the machine's clock; it steers a clock of its own.
func chronyd(in *namespace, sock string, lines ...string) {
	in.t.Helper()
	conf := strings.TrimSuffix(sock, ".sock") + ".conf"
	lines = append(lines, "cmdport 0", "bindcmdaddress "+sock, "pidfile "+conf+".pid")
	if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		in.t.Fatal(err)
	}
	in.start("chronyd", "-d", "-x", "-u", "root", "-f", conf)
}

// serveShifted answers every request as a stratum 1 server that is shift ahead.
func serveShifted(conn *net.UDPConn) {
	go func() {
		for buf := make([]byte, 512); ; {
			n, from, err := conn.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if n >= 48 {
				_, _ = conn.WriteToUDP(answer(buf[:48], time.Now().Add(shift)), from)
			}
		}
	}()
}

// answer is RFC 5905's header: leap 0, version 4, mode 4; times in 2^-32 s.
func answer(request []byte, now time.Time) []byte {
	reply := make([]byte, 48)
	reply[0], reply[1], reply[2], reply[3] = 4<<3|4, 1, request[2], 0xec
	copy(reply[12:], "LAB")
	copy(reply[24:32], request[40:48])
	stamp := uint64(now.Unix()+2208988800)<<32 | uint64(now.Nanosecond())<<32/1e9
	for _, at := range []int{16, 32, 40} {
		binary.BigEndian.PutUint64(reply[at:], stamp)
	}
	return reply
}
