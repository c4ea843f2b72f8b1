package packaging

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// other is a program that changes the rules or the addresses of hosts, and what it
// is made to do while the daemon runs.
type other struct {
	name  string
	acts  []act                // the first starts it
	works func(*network) error // whether it does what it is there for; nil: not asked
}

type act struct {
	do      string // by a shell
	culprit string // who is told to have changed our table; empty: it stays as it is
	loses   bool   // throw-away addresses
}

var livingWith = []other{
	{name: "nftables.service", acts: []act{
		{do: "systemctl start nftables", culprit: "nft"},
		{do: "systemctl reload nftables", culprit: "nft"},
		{do: "systemctl restart nftables", culprit: "nft"},
		{do: "systemctl stop nftables", culprit: "nft"},
	}},
	{name: "ufw", acts: []act{
		{do: "ufw --force enable"},
		{do: "ufw allow 22/tcp && ufw reload"},
		{do: "ufw disable"},
	}},
	{name: "iptables (nf_tables)", acts: []act{
		{do: "iptables -A INPUT -p tcp --dport 25 -j REJECT && ip6tables -A INPUT -p tcp --dport 25 -j REJECT"},
		{do: "iptables-save >/run/rules && iptables-restore </run/rules && ip6tables-save >/run/rules && ip6tables-restore </run/rules"},
		{do: "iptables -t mangle -F && iptables -t mangle -X && ip6tables -t raw -F"},
	}},
	{name: "Docker's chains", works: portIsPublished, acts: []act{
		{do: "iptables-restore --noflush /root/docker.rules"},
		{do: "iptables-restore --noflush /root/docker.rules"},
	}},
	{name: "firewalld", acts: []act{
		{do: "ufw disable && systemctl start firewalld && " + firewalldRuns}, // together they let nothing in
		{do: "firewall-cmd --reload"},
		{do: "firewall-cmd --complete-reload"},
		{do: "systemctl restart firewalld && " + firewalldRuns},
		{do: "systemctl stop firewalld"},
		{do: "systemctl start nftables", culprit: "nft"},
		{do: "systemctl start firewalld && " + firewalldRuns, culprit: "nft"},
	}},
	{name: "systemd-networkd", acts: []act{
		{do: "systemctl start systemd-networkd && /usr/lib/systemd/systemd-networkd-wait-online -i host0 --timeout 20"},
		{do: "networkctl reconfigure host0", loses: true},
		{do: "touch /etc/systemd/network/host0.network; networkctl reload"},
		{do: "systemctl restart systemd-networkd"},
		{do: "systemctl stop systemd-networkd"},
	}},
	{name: "NetworkManager", acts: []act{
		{do: "systemctl start NetworkManager && nm-online -t 20"},
		{do: "nmcli device reapply host0", loses: true},
		{do: "nmcli connection reload"},
		{do: "nmcli connection up host0", loses: true},
		{do: "systemctl restart NetworkManager"},
		{do: "systemctl stop NetworkManager"},
	}},
}

// Its unit is up before its rules are.
const firewalldRuns = "until firewall-cmd --state; do sleep 0.1; done"

// TestLivingWithOthers: see LIVING WITH OTHERS in ntpveil(8).
func TestLivingWithOthers(t *testing.T) {
	lan := newNetwork(t)
	lan.host.run("sh", "-c", "echo 50 >/proc/sys/net/ipv6/neigh/host0/retrans_time_ms")
	lan.publish(t)
	m := boot(t, lan.host, deb(t)+":/root/ntpveil.deb")
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := m.try("journalctl", "--no-pager")
			t.Log(log)
		}
	})
	// What services are shown of /proc/sys is read-only here. These two set what the kernel does with advertisements.
	m.run("sh", "-c", "mount -t proc proc /mnt && mount --bind /mnt/sys/net /proc/sys/net && umount -l /mnt")
	for path, text := range theirFiles {
		m.write(path, text)
	}
	m.run("chmod", "600", "/etc/NetworkManager/system-connections/host0.nmconnection")
	m.write("/etc/ntpveil/conf.d/observe.toml", observing)
	m.run("apt-get", "-y", "install", "/root/ntpveil.deb")
	m.run("ntpveil", "waitsync", "--timeout", "30s")
	for _, o := range livingWith {
		t.Run(o.name, func(t *testing.T) {
			m.t = t
			for i, a := range o.acts {
				if a.loses {
					m.run("sh", "-c", fresh)
				}
				m.bear(t, a)
				works(t, lan, o, a.do)
				if i == 0 {
					m.spare(t, func(do string) { works(t, lan, o, do) })
				}
			}
		})
	}
	m.t = t
	anotherOfOurselves(t, m)
	m.run("ufw", "--force", "enable") // nothing need come in any more
	theirs := m.theirs()
	m.run("apt-get", "-y", "purge", "ntpveil")
	if now := m.theirs(); now != theirs {
		t.Errorf("the purge changed others' rules from\n%s\nto\n%s", theirs, now)
	}
}

// anotherOfOurselves has a ledger and a socket of its own, where no lock is met.
func anotherOfOurselves(t *testing.T, m *machine) {
	t.Helper()
	m.write("/run/second.toml", observing+"[ledger]\npath = \"/run/second/ledger.db\"\n[control]\nsocket = \"/run/second/control.sock\"\n")
	frame, told := m.frame(), m.told()
	out, err := m.try("timeout", "10", "ntpveil", "--config", "/run/second.toml", "daemon", "--observe-clock")
	if exitCode(err) != 1 || !strings.Contains(out, "another ntpveil runs in this network") {
		t.Errorf("another one of us: %v\n%s", err, out)
	}
	if out, err := m.try("ls", "/run/second"); err == nil || m.frame() != frame || len(m.told()) != len(told) {
		t.Errorf("it touched something: %s\n%s", out, m.told())
	}
}

var theirFiles = map[string]string{
	"/etc/nftables.conf": `flush ruleset
table inet filter {
	chain input { type filter hook input priority filter; policy accept; tcp dport 23 drop; }
}
`,
	"/etc/systemd/network/host0.network": "[Match]\nName=host0\n[Network]\nDHCP=no\nIPv6AcceptRA=yes\n",
	"/etc/NetworkManager/system-connections/host0.nmconnection": `[connection]
id=host0
uuid=6a3bcf0c-52d1-4a35-8d4e-6a3ad0e9a001
type=ethernet
interface-name=host0
[ipv4]
method=disabled
[ipv6]
method=auto
`,
	"/etc/NetworkManager/conf.d/docker.conf": "[keyfile]\nunmanaged-devices=interface-name:docker0;interface-name:inside0\n",
	// What the documentation of Docker shows for a container that publishes tcp/80 as 8080.
	"/root/docker.rules": `*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
`,
}

// bear does what the other does, and sees that the shield stays, or is back within
// a second and its culprit named; that every address is guarded; that syncs go on.
func (m *machine) bear(t *testing.T, a act) {
	t.Helper()
	frame, held, told, synced := m.frame(), m.throwAways(), m.told(), m.lastSync()
	if len(held) == 0 {
		t.Errorf("%s: no address is held before it", a.do)
	}
	if out, err := m.try("sh", "-c", a.do); err != nil {
		t.Fatalf("%s: %v\n%s", a.do, err, out)
	}
	returned := time.Now()
	m.await(a.do+": the table is there", func() bool {
		_, err := m.try("nft", "list", "chain", "inet", "ntpveil", "postrouting")
		return err == nil
	})
	if took := time.Since(returned); took > time.Second {
		t.Errorf("%s: the table was away for %s", a.do, took)
	}
	if a.culprit != "" {
		m.await(a.do+": is told", func() bool { return len(m.told()) > len(told) })
	}
	m.await(a.do+": the shield is in force", func() bool { return m.status().Shield.State == "in force" })
	for _, line := range m.told()[len(told):] {
		a.judge(t, line)
	}
	now := m.frame()
	if a.culprit == "" && now != frame || handles.ReplaceAllString(now, "") != handles.ReplaceAllString(frame, "") {
		t.Errorf("%s: the table was\n%s\nand is\n%s", a.do, frame, now)
	}
	m.keepsOrLoses(t, a, held)
	guarded := m.run("nft", "list", "set", "inet", "ntpveil", "exposed6")
	for _, address := range append(m.throwAways(), held...) {
		if !strings.Contains(guarded, address) {
			t.Errorf("%s: %s is not guarded", a.do, address)
		}
	}
	if a.loses {
		m.await("a sync after "+a.do, func() bool { return m.lastSync() != synced })
	}
}

// judge takes a line of the journal about the shield.
func (a act) judge(t *testing.T, line string) {
	t.Helper()
	named := lostTo.FindStringSubmatch(line)
	if named == nil || named[1] != a.culprit {
		t.Errorf("%s: %s", a.do, line)
		return
	}
	if off, err := time.ParseDuration(named[2]); err != nil || off > time.Second {
		t.Errorf("%s: %s", a.do, line)
	}
	t.Logf("%s: %s", a.do, line)
}

func (m *machine) keepsOrLoses(t *testing.T, a act, held []string) {
	t.Helper()
	if a.loses {
		m.await(a.do+": the throw-away addresses go", func() bool {
			now := m.throwAways()
			return !slices.ContainsFunc(held, func(x string) bool { return slices.Contains(now, x) })
		})
	} else if now := m.throwAways(); !slices.Equal(now, held) {
		t.Errorf("%s: of %s there are %s", a.do, held, now)
	}
}

var (
	lostTo  = regexp.MustCompile(`shield lost: changed by (\S+) \(PID \d+\), off for (\S+)$`)
	handles = regexp.MustCompile(` # handle \d+`)
)

// spare sees that nothing which we do changes a rule of others, and that the first
// sync comes with these in force.
func (m *machine) spare(t *testing.T, works func(do string)) {
	t.Helper()
	theirs := m.theirs()
	for _, do := range []string{"systemctl reload ntpveil", "systemctl stop ntpveil", fresh} {
		m.run("sh", "-c", do)
		if now := m.theirs(); now != theirs {
			t.Errorf("%s changed others' rules from\n%s\nto\n%s", do, theirs, now)
		}
		works(do)
	}
}

func (m *machine) lastSync() string {
	m.t.Helper()
	return regexp.MustCompile(`"last_sync": *"([^"]*)"`).FindString(m.run("ntpveil", "status", "--json"))
}

// fresh starts the daemon as on its first day: what it may ask the servers is not
// used up.
const fresh = "systemctl stop ntpveil; rm /var/lib/ntpveil/ledger.db; systemctl start ntpveil && ntpveil waitsync --timeout 30s"

func (m *machine) await(what string, came func() bool) {
	m.t.Helper()
	for range 200 {
		if came() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	m.t.Errorf("not within ten seconds: %s", what)
}

// told are the journal's lines about the shield.
func (m *machine) told() (lines []string) {
	m.t.Helper()
	for _, line := range strings.Split(m.run("journalctl", "--no-pager", "-o", "cat", "-u", "ntpveil"), "\n") {
		if strings.HasPrefix(line, "shield") {
			lines = append(lines, line)
		}
	}
	return lines
}

// frame is our table without elements and counters; handles tell one that was put
// up anew.
func (m *machine) frame() string {
	m.t.Helper()
	return m.run("nft", "-a", "-s", "-t", "list", "table", "inet", "ntpveil")
}

// theirs are all tables but ours.
func (m *machine) theirs() (text string) {
	m.t.Helper()
	for _, table := range strings.Split(strings.TrimSpace(m.run("nft", "list", "tables")), "\n") {
		if table != "" && table != "table inet ntpveil" {
			text += m.run("sh", "-c", fmt.Sprintf("nft -a -s list %s 2>&1", table))
		}
	}
	return text
}

// throwAways are those that the link has.
func (m *machine) throwAways() []string {
	m.t.Helper()
	return strings.Fields(m.run("sh", "-c", "ip -6 -oneline address show dev host0 scope global deprecated | sed 's,.*inet6 \\([^/]*\\)/.*,\\1,' | sort"))
}

// publish has the host run what could be a container of Docker's, behind docker0.
func (n *network) publish(t *testing.T) {
	t.Helper()
	inside := newNamespace(t)
	n.router.run("ip", "address", "add", "192.0.2.1/24", "dev", "lan")
	n.host.run("sh", "-c", `ip address add 192.0.2.2/24 dev host0 && echo 1 >/proc/sys/net/ipv4/ip_forward &&
		ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up &&
		ip link add inside0 type veth peer name eth0 netns "$1" && ip link set inside0 master docker0 up`, "sh", inside.path())
	inside.run("sh", "-c", "ip address add 172.17.0.2/16 dev eth0 && ip link set eth0 up && ip route add default via 172.17.0.1")
	err := inside.enter(func() error {
		l, err := net.Listen("tcp4", "172.17.0.2:80")
		if err == nil {
			t.Cleanup(func() { l.Close() })
			go greet(l)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("inside"))
		c.Close()
	}
}

// portIsPublished asks from outside what listens in the container.
func portIsPublished(n *network) error {
	return n.router.enter(func() error {
		c, err := net.DialTimeout("tcp4", "192.0.2.2:8080", 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		_, err = io.ReadFull(c, make([]byte, len("inside")))
		return err
	})
}

func works(t *testing.T, lan *network, o other, when string) {
	t.Helper()
	if o.works == nil {
		return
	}
	if err := o.works(lan); err != nil {
		t.Errorf("%s: %s does not work: %v", when, o.name, err)
	}
}
