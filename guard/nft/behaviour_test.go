package nft

import (
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
			if x.Addr != addr(i) || x.Until < until || x.Until > until+5*time.Second { // the transaction itself may take a while
				t.Fatalf("%s: %s until %s, wished %s", name, x.Addr, x.Until, until)
			}
		}
	}
	listed := k.nft(t, "", "list", "set", "inet", "ntpveil", "exposed6")
	if n := strings.Count(listed, "expires"); n != 16000 {
		t.Errorf("nft lists %d elements", n)
	}
}

// TestAsManyAsAConfigurationMakes: sixteen servers, asked every 64 s from
// addresses that are kept for a day and guarded for another. Then nothing could be
// added any more, and no query would leave.
func TestAsManyAsAConfigurationMakes(t *testing.T) {
	const most = 16 * int(48*time.Hour/(64*time.Second))
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	w.Exposed = nil
	until := mono() + 24*time.Hour
	for i := range most {
		w.Exposed = append(w.Exposed, rules.Exposed{Addr: addr(i), Until: until})
	}
	must(t, s.Grow(mono(), w))
	if got := seen(t, s); len(got.Exposed) != most {
		t.Errorf("%d of %d are guarded", len(got.Exposed), most)
	}
	k.nft(t, "add table inet other", "-f", "-") // and everything is read anew
	began := time.Now()
	seen(t, s)
	t.Logf("all %d are read in %s", most, time.Since(began).Round(time.Millisecond))
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
			if len(got.Exposed) != 2 || len(got.Solicited) != 3 || len(got.Hoods) != 4 {
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
	for _, gone := range []string{"eth0", "hoods6_56", "hoods6_120", "10.0.0.0", "tcp dport { 22"} {
		if strings.Contains(text, gone) {
			t.Errorf("%s is still there", gone)
		}
	}
}
