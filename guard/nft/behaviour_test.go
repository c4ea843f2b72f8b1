package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// TestTwentyThousandElements: nothing is lost, whatever the size of a message.
func TestTwentyThousandElements(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	w.Exposed = nil
	until := mono() + time.Hour
	for i := range 16000 {
		w.Exposed = append(w.Exposed, rules.Exposed{Addr: addr(i), Until: until})
	}
	w.Hoods = nil
	for i := range 4000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 24)
		w.Hoods = append(w.Hoods, rules.Hood{Prefix: p, Server: p.Addr().Next(), Until: until})
	}
	must(t, s.Grow(mono(), w))
	other := k.open(t)
	for name, got := range map[string]rules.Shield{"cached": seen(t, s), "read anew": seen(t, other)} {
		if len(got.Exposed) != 16000 || len(got.Hoods) != 4000 {
			t.Fatalf("%s: %d exposed, %d neighbourhoods", name, len(got.Exposed), len(got.Hoods))
		}
		for i, x := range got.Exposed {
			if x.Addr != addr(i) || x.Until < until || x.Until > until+time.Second {
				t.Fatalf("%s: %s until %s, wished %s", name, x.Addr, x.Until, until)
			}
		}
	}
	listed := k.nft(t, "", "list", "set", "inet", "ntpveil", "exposed6")
	if n := strings.Count(listed, "expires"); n != 16000 {
		t.Errorf("nft lists %d elements", n)
	}
}

// TestFullSet: the error says so, and the next call works.
func TestFullSet(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	for i := range 1025 {
		w.Solicited = append(w.Solicited, rules.Solicited{Server: netip.MustParseAddrPort("[2001:db8::123]:123"),
			Our: netip.AddrPortFrom(addr(7), uint16(i+1)), Until: mono() + time.Minute})
	}
	err := s.Grow(mono(), w)
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "solicited6") {
		t.Fatalf("error %v, want one that the set solicited6 is full", err)
	}
	must(t, s.Grow(mono(), wish()))
	if got := seen(t, s); got.Mode != rules.Enforce {
		t.Errorf("mode %s afterwards", got.Mode)
	}
}

// TestRenewal lengthens deadlines as the kernel can, and as those before 6.12 need.
func TestRenewal(t *testing.T) {
	for _, replacing := range []bool{false, true} {
		t.Run(fmt.Sprintf("replacing=%v", replacing), func(t *testing.T) {
			k := newKernel(t)
			s := k.open(t)
			s.renewByReplacing = replacing
			w := wish()
			must(t, s.Grow(mono(), w))
			for i := range w.Hoods {
				w.Hoods[i].Until += time.Hour
			}
			w.Exposed[0].Until += time.Hour
			shorter := w.Exposed[1].Until - time.Hour
			longer := w.Exposed[1].Until
			w.Exposed[1].Until = shorter
			must(t, s.Grow(mono(), w))
			for _, got := range []rules.Shield{seen(t, s), seen(t, k.open(t))} {
				for i, h := range got.Hoods {
					if d := h.Until - w.Hoods[i].Until; d < 0 || d > time.Second {
						t.Errorf("%s is off by %s", h.Prefix, d)
					}
					if h.Server != w.Hoods[i].Server {
						t.Errorf("%s is of server %s", h.Prefix, h.Server)
					}
				}
				if d := got.Exposed[0].Until - w.Exposed[0].Until; d < 0 || d > time.Second {
					t.Errorf("exposed address off by %s", d)
				}
				if got.Exposed[1].Until < longer {
					t.Errorf("the deadline of an exposed address was shortened by %s", longer-got.Exposed[1].Until)
				}
			}
		})
	}
}

// TestRenewalWithTheSameTimeout: the kernel takes that for no change unless it is
// told when the element runs out as well.
func TestRenewalWithTheSameTimeout(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	must(t, s.Grow(mono(), w))
	w.Hoods[0].Until += time.Minute
	must(t, s.Grow(mono(), w))
	before := s.renewByReplacing // as it is where the kernel knows no other way
	k.nft(t, `delete element inet ntpveil hoods4 { 192.0.2.0 }
add element inet ntpveil hoods4 { 192.0.2.0 timeout 1h500ms expires 1m }`, "-f", "-")
	now := mono()
	w.Hoods[0].Until = now + time.Hour
	must(t, s.Grow(now, w))
	if got := seen(t, s).Hoods[0]; got.Until < w.Hoods[0].Until {
		t.Errorf("runs out %s too early", w.Hoods[0].Until-got.Until)
	}
	if s.renewByReplacing != before {
		t.Error("the element had to be replaced")
	}
}

// TestRenewalKeepsCounts also where elements are replaced.
func TestRenewalKeepsCounts(t *testing.T) {
	for _, replacing := range []bool{false, true} {
		k := newKernel(t)
		s := k.open(t)
		s.renewByReplacing = replacing
		w := wish()
		must(t, s.Grow(mono(), w))
		k.nft(t, "delete element inet ntpveil hoods4 { 192.0.2.0 }\nadd element inet ntpveil hoods4 { 192.0.2.0 counter packets 5 bytes 500 timeout 10m }", "-f", "-")
		w.Hoods[0].Until += time.Hour
		must(t, s.Grow(mono(), w))
		if got := seen(t, s).Hoods[0]; got.Dropped != 5 || got.Until < w.Hoods[0].Until {
			t.Errorf("replacing=%v: %+v, want 5 dropped, until %s", replacing, got, w.Hoods[0].Until)
		}
	}
}

// TestAdoption: a new process finds the elements, and takes the frame over
// without losing one.
func TestAdoption(t *testing.T) {
	for _, owner := range []bool{false, true} {
		t.Run(fmt.Sprintf("owner=%v", owner), func(t *testing.T) {
			k := newKernel(t)
			k.device(t, "eth0")
			w := wish("eth0")
			w.Owner = owner
			first := k.open(t)
			must(t, first.Grow(mono(), w))
			if got := seen(t, first); got.Owner != owner {
				t.Errorf("owner %v, want %v", got.Owner, owner)
			}
			if _, err := k.tryNft("", "flush", "table", "inet", "ntpveil"); (err != nil) != owner {
				t.Errorf("owner=%v, and a foreign flush gave %v", owner, err)
			}
			must(t, first.Close()) // all that a crash leaves the kernel with

			second := k.open(t)
			got := seen(t, second)
			if got.Mode != rules.Observe || got.Devices != nil {
				t.Errorf("an unknown frame is seen as mode %s on %v", got.Mode, got.Devices)
			}
			if len(got.Exposed) != 2 || len(got.Solicited) != 2 || len(got.Hoods) != 4 {
				t.Fatalf("found %+v", got)
			}
			w.Exposed = w.Exposed[:1]
			must(t, second.Grow(mono(), w))
			must(t, second.Shrink(mono(), w))
			got = seen(t, second)
			if got.Mode != rules.Enforce || !slices.Equal(got.Devices, w.Devices) || len(got.Exposed) != 2 || got.Owner != owner {
				t.Errorf("after adoption: %+v", got)
			}
			if n := strings.Count(k.nft(t, "", "list", "chain", "inet", "ntpveil", "prerouting"), "exposed6"); n != 1 {
				t.Errorf("the rule stands %d times", n)
			}
		})
	}
}

// TestOwnerAndPresetChange: what a table cannot change makes it anew, with all
// that is in it.
func TestOwnerAndPresetChange(t *testing.T) {
	k := newKernel(t)
	k.device(t, "eth0")
	s := k.open(t)
	w := wish("eth0")
	must(t, s.Grow(mono(), w))
	k.nft(t, "add element inet ntpveil probes6 { 2001:db8:0:1::1 counter packets 9 bytes 900 timeout 1h }", "-f", "-")
	for _, change := range []func(){
		func() { w.Owner = true }, func() { w.Preset = "another" }, func() { w.Owner = false },
	} {
		change()
		less := w
		less.Exposed, less.Hoods = nil, nil
		must(t, s.Grow(mono(), less))
		got := seen(t, s)
		if got.Owner != w.Owner || got.Preset != w.Preset || got.Mode != rules.Enforce || len(got.Devices) != 1 {
			t.Errorf("got %+v", got)
		}
		if len(got.Exposed) != 2 || len(got.Hoods) != 4 || got.Exposed[0].Dropped != 9 {
			t.Errorf("elements were lost: %+v", got)
		}
		if text := k.nft(t, "", "list", "table", "inet", "ntpveil"); !strings.Contains(text, "preset "+w.Preset) {
			t.Error("the table's comment does not name the preset")
		}
	}
}

// TestTampering: a frame that somebody touched is not taken for ours.
func TestTampering(t *testing.T) {
	for name, input := range map[string]string{
		"rules flushed":     "flush chain inet ntpveil guard",
		"rule added":        "insert rule inet ntpveil guard accept",
		"chain removed":     "flush chain inet ntpveil postrouting\ndelete chain inet ntpveil postrouting",
		"put to sleep":      "table inet ntpveil { flags dormant; }",
		"policy changed":    "chain inet ntpveil input { policy drop; }",
		"chain added":       "add chain inet ntpveil other",
		"set added":         "add set inet ntpveil other { type ipv4_addr; }",
		"elements flushed":  "flush set inet ntpveil exposed6",
		"everything is off": "flush ruleset",
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			k.device(t, "eth0")
			s := k.open(t)
			w := wish("eth0")
			must(t, s.Grow(mono(), w))
			k.nft(t, input, "-f", "-")
			got := seen(t, s)
			if got.Mode == rules.Enforce && len(got.Exposed) == 2 {
				t.Errorf("not noticed: %+v", got)
			}
			must(t, s.Grow(mono(), w))
			got = seen(t, s)
			if got.Mode != rules.Enforce || len(got.Exposed) != 2 || len(got.Devices) != 1 {
				t.Errorf("not put right: %+v", got)
			}
			table, _ := rules.Compile(w)
			other := newKernel(t)
			other.device(t, "eth0")
			other.nft(t, table.Text(mono()), "-f", "-")
			if x, y := k.list(t), other.list(t); x != y {
				t.Error(firstDifference(x, y))
			}
		})
	}
}

// TestDevices come, go and are renamed.
func TestDevices(t *testing.T) {
	k := newKernel(t)
	k.device(t, "eth0")
	k.device(t, "eth1")
	s := k.open(t)
	must(t, s.Grow(mono(), wish("eth0")))
	err := s.Grow(mono(), wish("eth0", "gone0"))
	if !errors.Is(err, ErrNoDevice) || !strings.Contains(err.Error(), "gone0") {
		t.Fatalf("error %v, want one that names gone0", err)
	}
	must(t, s.Grow(mono(), wish("eth0", "eth1")))
	k.removeDevice(t, "eth0")
	must(t, s.Grow(mono(), wish("eth1")))
	must(t, s.Shrink(mono(), wish("eth1")))
	if got := seen(t, s); !slices.Equal(got.Devices, []string{"eth1"}) {
		t.Errorf("devices %v", got.Devices)
	}
	l, err := k.link.LinkByName("eth1")
	must(t, err)
	must(t, k.link.LinkSetName(l, "lan0"))
	must(t, s.Grow(mono(), wish("lan0")))
	must(t, s.Shrink(mono(), wish("lan0")))
	if text := k.nft(t, "", "list", "table", "inet", "ntpveil"); !strings.Contains(text, `device "lan0"`) || strings.Contains(text, "eth1") {
		t.Errorf("after the rename:\n%s", text)
	}
}

// TestDeviceGoneBeforeAdoption: what an earlier run guarded is no reason to fail.
func TestDeviceGoneBeforeAdoption(t *testing.T) {
	k := newKernel(t)
	for _, d := range []string{"eth0", "eth1", "eth2"} {
		k.device(t, d)
	}
	must(t, k.open(t).Grow(mono(), wish("eth0", "eth1", "eth2")))
	k.removeDevice(t, "eth1")
	s := k.open(t)
	must(t, s.Grow(mono(), wish("eth0")))
	if got := seen(t, s); !slices.Equal(got.Devices, []string{"eth0", "eth2"}) {
		t.Errorf("guarded: %v", got.Devices)
	}
}

// TestChainThatWentWithItsDevice is noticed, though it is no transaction.
func TestChainThatWentWithItsDevice(t *testing.T) {
	k := newKernel(t)
	k.device(t, "eth0")
	s := k.open(t)
	must(t, s.Grow(mono(), wish("eth0")))
	s.st.chains[0].handle++ // as kernels before 6.16 leave it: not as it was, and nobody was told
	s.st.mark[0]++
	if got := seen(t, s); got.Mode != rules.Enforce || len(got.Devices) != 1 {
		t.Errorf("seen %+v", got)
	}
}

// TestLossIsToldWithItsCulprit at once, and our own changes are no loss.
func TestLossIsToldWithItsCulprit(t *testing.T) {
	k := newKernel(t)
	k.device(t, "eth0")
	s := k.open(t)
	ctx, cancel := context.WithCancel(context.Background())
	told, ready, done := make(chan string, 10), make(chan struct{}), make(chan error)
	go func() {
		done <- s.watch(ctx, func() { close(ready) }, func(culprit string) { told <- culprit })
	}()
	<-ready
	w := wish("eth0")
	must(t, s.Grow(mono(), w))
	w.Solicited = nil
	must(t, s.Shrink(mono(), w))
	k.nft(t, "add table inet other; add chain inet other ntpveil; add table ip ntpveil; delete table inet other", "-f", "-")
	k.nft(t, "", "flush", "ruleset")
	if culprit := <-told; !strings.HasPrefix(culprit, "nft (PID ") {
		t.Errorf("culprit %q", culprit)
	}
	if got := seen(t, s); got.Mode != rules.Off {
		t.Errorf("after a flush: %+v", got)
	}
	must(t, s.Grow(mono(), w))
	if got := seen(t, s); got.Mode != rules.Enforce || len(got.Exposed) != 2 {
		t.Errorf("put back: %+v", got)
	}
	cancel()
	must(t, <-done)
	if len(told) > 0 {
		t.Errorf("told of more: %q", <-told)
	}
}

// TestRemoved: mode off removes the table, and nothing else.
func TestRemoved(t *testing.T) {
	k := newKernel(t)
	k.nft(t, "add table inet other", "-f", "-")
	s := k.open(t)
	must(t, s.Shrink(mono(), rules.Shield{}))
	must(t, s.Grow(mono(), wish()))
	must(t, s.Grow(mono(), rules.Shield{}))
	must(t, s.Shrink(mono(), rules.Shield{}))
	if text := k.nft(t, "", "list", "ruleset"); strings.TrimSpace(text) != "table inet other {\n}" {
		t.Errorf("left:\n%s", text)
	}
	if got := seen(t, s); got.Mode != rules.Off {
		t.Errorf("seen %+v", got)
	}
}

// TestForeignOwner: a table of another process is not ours to change, and the
// error says so.
func TestForeignOwner(t *testing.T) {
	k := newKernel(t)
	w := wish()
	w.Owner = true
	must(t, k.open(t).Grow(mono(), w))
	if err := k.open(t).Grow(mono(), w); !errors.Is(err, ErrDenied) {
		t.Errorf("error %v, want not permitted", err)
	}
}

// TestTransactions are cut only where an observer may look.
func TestTransactions(t *testing.T) {
	var list []element
	for i := range 9000 {
		list = append(list, element{key: string(addr(i).AsSlice()), timeout: time.Hour, was: time.Minute, comment: strings.Repeat("c", 60)})
	}
	cut, renewed, whole := &batch{}, &batch{}, &batch{}
	cut.elements(unix.NFT_MSG_NEWSETELEM, "s", false, list)
	renewed.renew("s", list)
	whole.renew("s", list)
	whole.whole()
	for what, b := range map[string]*batch{"cut": cut, "renewed": renewed, "whole": whole} {
		n, added, removed := 0, 0, 0
		for part := range b.transactions() {
			n++
			size := 0
			for _, m := range part {
				size += len(m.data)
				if m.typ == unix.NFT_MSG_DELSETELEM {
					removed++
				} else {
					added++
				}
			}
			if what != "cut" && added != 2*removed {
				t.Errorf("%s: transaction %d ends with %d removals and %d additions", what, n, removed, added)
			}
			if what != "whole" && size > batchSize+64<<10 {
				t.Errorf("%s: a transaction of %d bytes", what, size)
			}
		}
		if times := map[string]int{"cut": 1, "renewed": 2, "whole": 2}[what]; added != 30*times || (n == 1) != (what == "whole") {
			t.Errorf("%s: %d additions in %d transactions", what, added, n)
		}
	}
}

// TestForeignElements: what somebody added to the sets that open goes, what
// somebody removed comes back.
func TestForeignElements(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	must(t, s.Grow(mono(), w))
	before := k.list(t)
	k.nft(t, `add element inet ntpveil trusted6 { 2001:db8:a::/48 }
delete element inet ntpveil trusted4 { 11.0.0.0/8 }
add element inet ntpveil solicited6 { 2001:db8:a::1 . 123 . 2001:db8:0:1::1 . 22 timeout 1h }
delete element inet ntpveil exposed6 { 2001:db8:0:1::1 }
delete element inet ntpveil hoods4 { 192.0.2.0 }`, "-f", "-")
	must(t, s.Grow(mono(), w))
	must(t, s.Shrink(mono(), w))
	if after := k.list(t); after != before {
		t.Error(firstDifference(after, before))
	}
	if got := seen(t, s); len(got.Solicited) != 2 || got.Mode != rules.Enforce {
		t.Errorf("seen %+v", got)
	}
}

// TestShrink takes away what is not wanted, but for exposed addresses; elements
// that run out in that instant do no harm.
func TestShrink(t *testing.T) {
	k := newKernel(t)
	k.device(t, "eth0")
	s := k.open(t)
	w := wish("eth0")
	w.Hoods = append(w.Hoods, rules.Hood{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Server: netip.MustParseAddr("198.51.100.1"), Until: mono() + time.Minute})
	must(t, s.Grow(mono(), w))
	k.nft(t, "", "delete", "element", "inet", "ntpveil", "hoods4", "{ 198.51.100.0 }")
	s.st.gen++ // as if it had run out: nobody was told
	less := rules.Shield{Mode: rules.Enforce, Preset: w.Preset, LogGroup: 5}
	must(t, s.Shrink(mono(), less))
	got := seen(t, s)
	if len(got.Exposed) != 2 || len(got.Hoods)+len(got.Solicited)+len(got.Devices)+len(got.Trusted) != 0 {
		t.Errorf("left %+v", got)
	}
	text := k.nft(t, "", "list", "table", "inet", "ntpveil")
	for _, gone := range []string{"eth0", "hoods6_56", "hoods6_120", "10.0.0.0", "tcp dport"} {
		if strings.Contains(text, gone) {
			t.Errorf("%s is still there", gone)
		}
	}
}

// TestBurst: Watch survives being overrun, and tells a loss only if there is one.
func TestBurst(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	s.watchBuffer = 4096
	ctx, cancel := context.WithCancel(context.Background())
	told, ready, done := make(chan string, 10), make(chan struct{}, 1), make(chan error)
	go func() {
		done <- s.watch(ctx, func() {
			select {
			case ready <- struct{}{}:
			default:
			}
		}, func(culprit string) { told <- culprit })
	}()
	<-ready
	must(t, s.Grow(mono(), wish()))
	burst := func(then string) {
		k.nft(t, "add table inet other; add set inet other s { type ipv6_addr; }", "-f", "-")
		for n := range 10 { // as much as nft can send without privilege
			var text strings.Builder
			for i := range 1000 {
				fmt.Fprintf(&text, "add element inet other s { %s }\n", addr(1000*n+i))
			}
			k.nft(t, text.String()+then, "-f", "-")
			then = ""
		}
	}
	burst("")
	<-ready // it listens anew
	if len(told) > 0 {
		t.Errorf("told %q, and nothing was lost", <-told)
	}
	burst("delete table inet ntpveil\n")
	<-told
	cancel()
	must(t, <-done)
}
