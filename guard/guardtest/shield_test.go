package guardtest

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ntpveil/rules"
)

func TestShieldModel(t *testing.T) {
	ShieldSuite(t, func(*testing.T) ShieldBench {
		s := NewShield("eth0", "eth1")
		return ShieldBench{Shield: s, Flush: func() { s.Flush("nft (PID 7)") }, SetDevice: s.SetDevice, Reopen: func() ShieldAdapter { return s }}
	})
}

func TestShieldModelRunsOutAndFails(t *testing.T) {
	s, w := NewShield("eth0"), suiteWish()
	suiteDo(t, s.Grow(suiteNow, w))
	s.Hit(w.Exposed[0].Addr, w.Hoods[0].Server, 3)
	s.Hit(netip.IPv6Loopback(), w.Hoods[0].Server, 2)
	got, _ := s.Seen(suiteNow + 2*time.Minute)
	if len(got.Solicited) != 0 || got.Exposed[0].Dropped != 3 || got.Hoods[0].Dropped != 2 {
		t.Errorf("seen %+v", got)
	}
	if text := s.Text(suiteNow + 2*time.Minute); !strings.Contains(text, "2001:db8:1::a timeout 1d1h58m") {
		t.Errorf("prints\n%s", text)
	}
	broken := errors.New("broken")
	s.Fail("Grow", broken)
	if err := s.Grow(suiteNow, w); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	s.Flush("somebody")
	if text := s.Text(suiteNow); text != "" {
		t.Errorf("after a flush:\n%s", text)
	}
	if got, _ := s.Seen(suiteNow); got.Mode != rules.Off {
		t.Errorf("after a flush: %+v", got)
	}
}
