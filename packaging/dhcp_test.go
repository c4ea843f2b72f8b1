package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The hooks write what a lease names, an address a line, and take it back; whatever
// else a lease says is done by nobody.
func TestHooksOfDHCP(t *testing.T) {
	dhclient, nm := []string{"-c", ". ./dhcp/dhclient; echo \"options $-\""}, func(action string) []string {
		return []string{"./dhcp/networkmanager", "eth0", action}
	}
	for _, tt := range []struct {
		name string
		args []string
		env  []string
		file string
		want string // empty: no such file
	}{
		{"dhclient, bound", dhclient, []string{"interface=eth0", "reason=BOUND", "new_ntp_servers=192.0.2.1 192.0.2.2"}, "dhclient.eth0.servers", "192.0.2.1\n192.0.2.2\n"},
		{"dhclient, IPv6", dhclient, []string{"interface=eth0", "reason=BOUND6", "new_dhcp6_ntp_servers=2001:db8::123"}, "dhclient6.eth0.servers", "2001:db8::123\n"},
		{"dhclient, renewed without", dhclient, []string{"interface=eth0", "reason=RENEW"}, "dhclient.eth0.servers", ""},
		{"dhclient, expired", dhclient, []string{"interface=eth0", "reason=EXPIRE", "new_ntp_servers=192.0.2.1"}, "dhclient.eth0.servers", ""},
		{"dhclient, something else", dhclient, []string{"interface=eth0", "reason=MEDIUM"}, "dhclient.eth0.servers", "before\n"},
		{"dhclient, a hostile lease", dhclient, []string{"interface=eth0", "reason=BOUND", "new_ntp_servers=* $(touch here) ;"}, "dhclient.eth0.servers", "*\n$(touch\nhere)\n;\n"},
		{"NetworkManager, up", nm("up"), []string{"DHCP4_NTP_SERVERS=192.0.2.1", "DHCP6_DHCP6_NTP_SERVERS=2001:db8::123"}, "nm.eth0.servers", "192.0.2.1\n2001:db8::123\n"},
		{"NetworkManager, changed without", nm("dhcp4-change"), nil, "nm.eth0.servers", ""},
		{"NetworkManager, down", nm("down"), []string{"DHCP4_NTP_SERVERS=192.0.2.1"}, "nm.eth0.servers", ""},
		{"NetworkManager, something else", nm("hostname"), nil, "nm.eth0.servers", "before\n"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, tt.file)
		if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", tt.args...)
		cmd.Env = append(append(os.Environ(), "NTPVEIL_DHCP_DIR="+dir), tt.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", tt.name, err, out)
		}
		got, err := os.ReadFile(path)
		if string(got) != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
		if left, _ := filepath.Glob(dir + "/*"); len(left) > 1 || len(left) == 1 && left[0] != path {
			t.Errorf("%s: it left %v", tt.name, left)
		}
	}
}
