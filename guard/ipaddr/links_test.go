package ipaddr

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestIsTunnel(t *testing.T) {
	ethernet := uint32(unix.IFF_UP | unix.IFF_BROADCAST | unix.IFF_MULTICAST)
	for _, c := range []struct {
		what  string
		flags uint32
		kind  string
		want  bool
	}{
		{"Ethernet", ethernet, "device", false},
		{"bridge", ethernet, "bridge", false},
		{"tap", ethernet, "tuntap", false},
		{"tun", unix.IFF_POINTOPOINT | unix.IFF_NOARP | unix.IFF_MULTICAST, "tuntap", true},
		{"WireGuard", unix.IFF_POINTOPOINT | unix.IFF_NOARP, "wireguard", true},
		{"ppp", unix.IFF_POINTOPOINT | unix.IFF_MULTICAST, "device", true},
		{"6in4", unix.IFF_NOARP, "sit", true},
		{"GRE with multicast", unix.IFF_MULTICAST, "gre", true},
		{"gretap", ethernet, "gretap", false},
		{"no multicast", unix.IFF_BROADCAST, "device", true},
	} {
		if isTunnel(c.flags, c.kind) != c.want {
			t.Errorf("%s: tunnel %v", c.what, !c.want)
		}
	}
}

func TestListedWireless(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wireless")
	text := "Inter-| sta-|   Quality        |   Discarded packets\n face | tus | link level noise |  nwid  crypt\n wlan0: 0000   54.  -56.  -256        0      0\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if !listedWireless(path, "wlan0") || listedWireless(path, "wlan") || listedWireless(path, "eth0") || listedWireless(path+".none", "wlan0") {
		t.Error("only wlan0 is wireless")
	}
}

// TestTheUplinkIsNeverLeftOut, however many containers there are.
func TestTheUplinkIsNeverLeftOut(t *testing.T) {
	links := []link{{name: "lo", loopback: true}, {name: "wlan0"}, {name: "dummy0", kind: "dummy"}, {name: "vlan7", kind: "vlan"}}
	for i := range 2 * maxDevices {
		links = append(links, link{name: fmt.Sprintf("veth%04d", i), kind: "veth"})
	}
	d := devices(links)
	if len(d) != maxDevices || !slices.Contains(d, "wlan0") || !slices.Contains(d, "vlan7") || !slices.Contains(d, "veth0000") || !slices.IsSorted(d) {
		t.Errorf("%d devices, the first %q", len(d), d[:3])
	}
}
