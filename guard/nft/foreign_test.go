package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

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
		"map added":         "add chain inet ntpveil other\nadd map inet ntpveil m { type inet_service : verdict; elements = { 22 : jump other } }",
		"nameless chain":    "add rule inet ntpveil input jump { tcp dport 80 accept; }\n",
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

// TestTrustedByHand: what is no prefix is taken for none, and the set put right,
// by a daemon that runs and by the next one.
func TestTrustedByHand(t *testing.T) {
	for name, input := range map[string]string{
		"range":       "add element inet ntpveil trusted4 { 198.51.100.10-198.51.100.20 }",
		"range, IPv6": "add element inet ntpveil trusted6 { 2001:db8:a::1-2001:db8:a::9 }",
		"catch-all":   "",
		"no interval": remade("trusted6 { type ipv6_addr; elements = { 2001:db8:a::1 }; }"),
		"other key":   remade("trusted4 { type inet_service; flags interval; elements = { 22 }; }"),
		"wider key":   remade("trusted4 { type ipv6_addr; flags interval; elements = { 2001:db8:a::/48 }; }"),
		"other guard": remade("exposed6 { type ipv4_addr; timeout 1h; elements = { 192.0.2.9 }; }"),
	} {
		for _, anew := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, a new daemon: %v", name, anew), func(t *testing.T) {
				k := newKernel(t)
				k.device(t, "eth0")
				s, w := k.open(t), wish("eth0")
				must(t, s.Grow(mono(), w))
				if name == "catch-all" {
					catchAll(t, k.open(t), rules.Trusted4)
				} else {
					k.nft(t, input, "-f", "-")
				}
				if anew {
					s = k.open(t)
				}
				seen(t, s)
				must(t, s.Grow(mono(), w))
				must(t, s.Shrink(mono(), w))
				if got := seen(t, s); !slices.Equal(got.Trusted, rules.Widest(w.Trusted)) || len(got.Exposed) == 0 {
					t.Errorf("trusted %v, exposed %v", got.Trusted, got.Exposed)
				}
				for _, set := range w.Sets() {
					if set.Interval && !s.st.sets[set.Name].same(set) {
						t.Errorf("%s holds %v", set.Name, s.st.sets[set.Name].elems)
					}
				}
			})
		}
	}
}

// remade is what makes the table anew, with one set in it.
func remade(set string) string {
	return "delete table inet ntpveil\ntable inet ntpveil {\nset " + set + "\n}\n"
}

// catchAll adds the element *, at which nft 1.0.6 dies in a set of intervals.
func catchAll(t *testing.T, s *Shield, set string) {
	t.Helper()
	const flagCatchAll = 0x2
	b := &batch{}
	b.add(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add to set "+set, ours().text(unix.NFTA_SET_ELEM_LIST_SET, set).
		nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, attrs(nil).nest(unix.NFTA_LIST_ELEM, attrs(nil).u32(unix.NFTA_SET_ELEM_FLAGS, flagCatchAll))))
	_, err := s.conn.commit(b)
	must(t, err)
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
delete element inet ntpveil hoods4 { 192.0.2.0 }
delete element inet ntpveil sieve6_56 { 2001:db8:6:: }`, "-f", "-")
	if got := seen(t, s); len(got.Hoods) != 2 {
		t.Errorf("still closed: %+v", got.Hoods)
	}
	must(t, s.Grow(mono(), w))
	must(t, s.Shrink(mono(), w))
	if after := k.list(t); after != before {
		t.Error(firstDifference(after, before))
	}
	if got := seen(t, s); len(got.Solicited) != 3 || got.Mode != rules.Enforce {
		t.Errorf("seen %+v", got)
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
