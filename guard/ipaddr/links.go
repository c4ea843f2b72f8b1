package ipaddr

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

const maxDevices = 1024

// link is one interface.
type link struct {
	index    int
	name     string
	kind     string // as `ip link show type` has it
	loopback bool
	tunnel   bool
}

func (s *Stack) links() ([]link, error) {
	raw, err := whole(s.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	out := make([]link, 0, len(raw))
	for _, r := range raw {
		a := r.Attrs()
		out = append(out, link{
			index: a.Index, name: a.Name, kind: r.Type(),
			loopback: a.Flags&net.FlagLoopback != 0, tunnel: isTunnel(a.RawFlags, r.Type()),
		})
	}
	return out, nil
}

// isTunnel reports whether a link is a tunnel or leads to one other host: there
// is no neighbour discovery on it that could find a collision, and mostly one
// address is all that the far end lets through.
func isTunnel(flags uint32, kind string) bool {
	switch kind {
	case "sit", "ipip", "ip6tnl", "gre", "ip6gre", "vti", "vti6", "wireguard", "ppp", "xfrm":
		return true
	}
	return flags&(unix.IFF_POINTOPOINT|unix.IFF_NOARP) != 0 || flags&unix.IFF_MULTICAST == 0
}

// devices are those that can receive a packet from outside, up or not, and
// members of a bridge or a bond among them. Where there are too many, those that
// lead to containers of the host's own are left to the prerouting hook.
func devices(links []link) []string {
	var out, containers []string
	for _, l := range links {
		switch {
		case l.loopback || l.kind == "dummy" || l.kind == "nlmon":
		case l.kind == "veth":
			containers = append(containers, l.name)
		default:
			out = append(out, l.name)
		}
	}
	slices.Sort(out)
	slices.Sort(containers)
	out = append(out, containers...)
	out = out[:min(len(out), maxDevices)]
	slices.Sort(out)
	return out
}

// wireless reports whether a link is Wi-Fi. sysfs knows every one, but it may be
// mounted for another namespace: then it has no such interface, or one of
// another index. The list of /proc belongs to the thread's namespace and
// lacks the newest drivers (Wi-Fi 7 has no wireless extensions).
func wireless(l guard.Link) bool {
	dir := "/sys/class/net/" + l.Name
	if text, err := readLine(dir + "/ifindex"); err == nil && text == strconv.Itoa(l.Index) {
		for _, name := range []string{"/phy80211", "/wireless"} {
			if _, err := os.Stat(dir + name); err == nil {
				return true
			}
		}
	}
	return listedWireless("/proc/thread-self/net/wireless", l.Name)
}

func listedWireless(path, name string) bool {
	f, err := os.Open(path)
	if err != nil { // a kernel without wireless extensions
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if before, _, found := strings.Cut(strings.TrimSpace(lines.Text()), ":"); found && before == name {
			return true
		}
	}
	return false
}
