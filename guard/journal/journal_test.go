package journal

import (
	"bytes"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ntpveil/guard"
)

func TestLinesAreOneLine(t *testing.T) {
	var out bytes.Buffer
	j := New(&out)
	j.Write(guard.Record{Kind: guard.KindNotice, Text: "resolve evil\nntpveil: all is well\x1b[2J"})
	j.Close()
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
	defer j.Close()
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

// never is a reader that does not read until it is told to.
type never struct {
	goOn chan struct{}
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *never) Write(b []byte) (int, error) {
	<-w.goOn
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

// TestNobodyWaitsForTheJournal: what nobody reads is lost and counted, and the
// daemon goes on.
func TestNobodyWaitsForTheJournal(t *testing.T) {
	w := &never{goOn: make(chan struct{})}
	j := New(w)
	for range 3 * room {
		j.Write(guard.Record{Kind: guard.KindNotice, Text: "something happened"})
	}
	began := time.Now()
	if j.Close(); time.Since(began) > 2*closeWithin {
		t.Errorf("closed in %s", time.Since(began))
	}
	j = New(w)
	for range 3 * room {
		j.Write(guard.Record{Kind: guard.KindNotice, Text: "something happened"})
	}
	close(w.goOn)
	j.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	if text := w.text.String(); !strings.Contains(text, "lines were lost: nobody read them") {
		t.Errorf("nothing says that lines were lost in\n%.2000s", text)
	}
}

// TestNobodyWaitsForTheServiceManager, which may be frozen.
func TestNobodyWaitsForTheServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	j := New(nil)
	defer func() { // what still waits must not reach the next test's service manager
		c.Close()
		j.Close()
		<-j.ended
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 * room {
			j.Notify("WATCHDOG=1")
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon hangs")
	}
}
