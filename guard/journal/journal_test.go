package journal

import (
	"bytes"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"ntpveil/guard"
)

func TestLinesAreOneLine(t *testing.T) {
	var out bytes.Buffer
	j := New(&out)
	j.Write(guard.Record{Kind: guard.KindNotice, Text: "resolve evil\nntpveil: all is well\x1b[2J"})
	if got := out.String(); got != "ntpveil: resolve evil ntpveil: all is well [2J\n" {
		t.Errorf("%q", got)
	}
}

func TestFields(t *testing.T) {
	f := fields(guard.Record{Kind: guard.KindExposure, Exposure: &guard.ExposureRecord{Addr: netip.MustParseAddr("2001:db8::1"), Server: netip.MustParseAddr("2001:db8::2")}})
	if f["NTPVEIL_KIND"] != "exposure" || f["NTPVEIL_EXPOSURE"] != "2001:db8::1" || f["NTPVEIL_SERVER"] != "2001:db8::2" {
		t.Errorf("%v", f)
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	j := New(nil)
	buf := make([]byte, 256)
	for state, want := range map[string]string{"READY=1": "READY=1", "RELOADING=1": "RELOADING=1\nMONOTONIC_USEC=", "STATUS=a\nREADY=1": "STATUS=a READY=1"} {
		j.Notify(state)
		n, err := c.Read(buf)
		if got := string(buf[:n]); err != nil || !strings.HasPrefix(got, want) || strings.HasSuffix(got, "=") {
			t.Errorf("%q became %q, %v", state, got, err)
		}
	}
}

func TestWatchdog(t *testing.T) {
	if Watchdog() != 0 {
		t.Error("a watchdog without a service manager")
	}
	t.Setenv("WATCHDOG_USEC", "30000000")
	if got := Watchdog().Seconds(); got != 30 {
		t.Errorf("%v s", got)
	}
}
