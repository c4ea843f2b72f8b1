package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// perimeter is lockdown on the host of a wire, with one neighbourhood closed.
func perimeter(t testing.TB) rules.Shield {
	t.Helper()
	all, errs := rules.ReadPresets(nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s := all["lockdown"].Shield(rules.Facts{})
	s.Devices = []string{"eth0"}
	s.Hoods = []rules.Hood{{Prefix: netip.MustParsePrefix("2001:db8:5::/48"), Server: server, Until: mono() + time.Hour}}
	return s
}

// ntp4 sends an NTP query by IPv4.
func (w *wire) ntp4(from, to netip.Addr) {
	w.t.Helper()
	p := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, from.AsSlice()...), to.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	p = append(p, 0x9c, 0x40, 0, 123, 0, 12, 0, 0, 0x23, 0, 0, 0) // without a checksum
	_, err := unix.Write(w.fd, append(append(append([]byte{}, w.mac...), router...), append([]byte{8, 0}, p...)...))
	must(w.t, err)
}

// others print themselves as one line.
type others rules.Others

func (o others) String() string { return fmt.Sprint(o.Dropped, o.Most) }

// TestOthersAreCounted where it was no server that closed them out: each packet once,
// in either mode, and beyond a table that is made anew.
func TestOthersAreCounted(t *testing.T) {
	w := newWire(t)
	w.listen("[::]:8080", "[::]:0")
	eth0, err := w.host.link.LinkByName("eth0")
	must(t, err)
	own4 := netip.MustParseAddr("192.0.2.5")
	must(t, w.host.link.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: own4.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
	must(t, w.host.link.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}))
	s := w.host.open(t)
	shield := perimeter(t)
	must(t, s.Grow(mono(), shield))
	blockTo(t, s, shield, "2001:db8:9::/48\n")
	syns := func(from string, answers int) {
		t.Helper()
		a := netip.MustParseAddr(from)
		w.send(a, stable, 6, syn(a, stable, 8080), 64)
		if got := w.answers(); len(got) != answers {
			t.Errorf("from %s: %d answers, want %d", from, len(got), answers)
		}
	}
	for _, from := range []string{"2001:db8:7::1", "2001:db8:7:1::2", "2001:db8:7::1", "2001:db8:9::1", harvester.String()} {
		syns(from, 0)
	}
	ntp := netip.MustParseAddrPort("[2001:db8:8::1]:4000")
	w.send(ntp.Addr(), stable, 17, udp(ntp, netip.AddrPortFrom(stable, 123)), 64)
	w.ntp4(netip.MustParseAddr("198.51.100.7"), own4)
	w.answers()
	check := func(when, want string) {
		t.Helper()
		got := seen(t, s)
		if text := others(got.Others).String(); text != want {
			t.Errorf("%s: %s, want %s", when, text, want)
		}
		if i := slices.IndexFunc(got.Hoods, func(h rules.Hood) bool { return h.Prefix.Contains(harvester) }); i < 0 || got.Hoods[i].Dropped != 1 {
			t.Errorf("%s: neighbourhoods %+v", when, got.Hoods)
		}
	}
	check("enforced", "6 [{2001:db8:7::/48 3} {198.51.100.0/24 1} {2001:db8:8::/48 1} {2001:db8:9::/48 1}]")
	shield.Mode = rules.Observe
	must(t, s.Grow(mono(), shield))
	syns("2001:db8:7::1", 1)
	syns("2001:db8:9::1", 1)
	check("observed", "8 [{2001:db8:7::/48 4} {2001:db8:9::/48 2} {198.51.100.0/24 1} {2001:db8:8::/48 1}]")
	shield.Preset = "another"
	must(t, s.Grow(mono(), shield))
	if got := others(seen(t, s).Others).String(); !strings.HasPrefix(got, "8 [{2001:db8:7::/48 4} {2001:db8:9::/48 2}") {
		t.Errorf("made anew: %s", got)
	}
	must(t, s.Grow(mono(), rules.Shield{Mode: rules.Enforce, Preset: "another", Devices: []string{"eth0"}}))
	if text := w.host.table(t); strings.Contains(text, "others") {
		t.Errorf("without anything to count in it there is a set of others:\n%s", text)
	}
}

// TestWhatWasLearntIsCounted where no daemon has a part in the table, too.
func TestWhatWasLearntIsCounted(t *testing.T) {
	w := newWire(t)
	w.listen("[::]:8080", "[::]:0")
	all, errs := rules.ReadPresets(nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s := w.host.open(t)
	for _, preset := range []string{"companion", "router"} {
		shield := all[preset].Shield(rules.Facts{Outside: []string{"eth0"}})
		must(t, s.Grow(mono(), shield))
		w.host.nft(t, "", "add", "element", "inet", "ntpveil", "learnt6", "{ 2001:db8:5:: timeout 1h }")
		for _, from := range []string{"2001:db8:5::1", "2001:db8:5:1::1", "2001:db8:6::1"} {
			a := netip.MustParseAddr(from)
			w.send(a, stable, 6, syn(a, stable, 8080), 64)
		}
		if got := w.answers(); len(got) != 1 {
			t.Errorf("%s: %d answers, want that to the one from elsewhere", preset, len(got))
		}
		if got := others(seen(t, s).Others).String(); got != "2 [{2001:db8:5::/48 2}]" {
			t.Errorf("%s: %s", preset, got)
		}
		must(t, s.Shrink(mono(), rules.Shield{}))
	}
}

// TestFullSetOfOthers: whoever forges 16,384 sources has the next one neither pass nor
// stop the drop, and the table can still be made anew.
func TestFullSetOfOthers(t *testing.T) {
	largeBatches(t)
	w := newWire(t)
	w.listen("[::]:8080", "[::]:0")
	s := w.host.open(t)
	shield := perimeter(t)
	must(t, s.Grow(mono(), shield))
	blockTo(t, s, shield, "2001:db8:9::/48\n")
	var b strings.Builder
	for i := range 16384 {
		fmt.Fprintf(&b, "add element inet ntpveil others6 { 2001:%x:%x:: counter packets 2 bytes 80 timeout 1h }\n", 0x1000+i>>8, i&0xff)
	}
	w.host.nft(t, b.String(), "-f", "-")
	full := func(when string) {
		t.Helper()
		for _, from := range []string{"2001:db8:7::1", "2001:db8:9::1"} {
			a := netip.MustParseAddr(from)
			w.send(a, stable, 6, syn(a, stable, 8080), 64)
			p := netip.AddrPortFrom(a, 4000)
			w.send(a, stable, 17, udp(p, netip.AddrPortFrom(stable, 123)), 64)
			if got := w.answers(); len(got) != 0 {
				t.Errorf("%s, from %s: %q", when, from, got)
			}
		}
		began := time.Now()
		if o := seen(t, s).Others; o.Dropped != 2*16384 || len(o.Most) != rules.MostOthers {
			t.Errorf("%s: %d dropped, %d told", when, o.Dropped, len(o.Most))
		}
		t.Logf("%s: seen in %s", when, time.Since(began))
	}
	dropped := func(chain, rule string) string {
		for line := range strings.Lines(w.host.nft(t, "", "list", "chain", "inet", "ntpveil", chain)) {
			if strings.Contains(line, rule) {
				return strings.Join(strings.Fields(line)[:3], " ")
			}
		}
		return ""
	}
	full("full")
	if got := dropped("closed", "to no listed service"); got != "counter packets 2" {
		t.Errorf("closed: %q", got)
	}
	if got := dropped("leaf", "NTP that nobody"); got != "counter packets 2" {
		t.Errorf("leaf: %q", got)
	}
	shield.Preset = "another"
	must(t, s.Grow(mono(), shield))
	full("made anew")
}
