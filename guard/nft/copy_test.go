package nft

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// running is what of an element passes by itself.
var running = regexp.MustCompile(` expires [0-9a-z]+| timeout [0-9a-z]+ms`)

func (k *kernel) listed(t *testing.T) string {
	t.Helper()
	out, err := k.tryNft("", "list", "table", "inet", "ntpveil")
	if err != nil {
		return ""
	}
	return running.ReplaceAllString(out, "")
}

// an admin's own chains and rules beside ours, with a set of every shape.
const extra = `add chain inet ntpveil mine
add chain inet ntpveil other
add map inet ntpveil by_port { type inet_service : verdict; elements = { 2222 : goto other } }
add rule inet ntpveil mine tcp dport vmap { 22 : jump other }
add rule inet ntpveil mine tcp dport vmap @by_port
add set inet ntpveil plain { type ipv4_addr; elements = { 192.0.2.7, 192.0.2.8 } }
add rule inet ntpveil mine tcp dport { 80, 443, 8000-8010 } ip saddr @plain counter accept comment "an admin's"
`

// TestPutBack: a table that anybody made is put back as nft lists it, with what
// runs out as it is now.
func TestPutBack(t *testing.T) {
	k := newKernel(t)
	k.device(t, "eth0")
	k.device(t, "eth1")
	s := k.open(t)
	w := wish("eth0", "eth1")
	must(t, s.Grow(mono(), w))
	k.nft(t, extra, "-f", "-")
	before := k.listed(t)
	copied, err := k.open(t).Copy(mono())
	must(t, err)
	text, err := json.Marshal(copied)
	must(t, err)
	var c Copy
	must(t, json.Unmarshal(text, &c))

	other := w
	other.Preset, other.Allow, other.Devices = "lockdown", nil, []string{"eth0"}
	other.Choices = rules.Choices{Everyone: true, Leaf: true, Reject: true}
	must(t, s.Grow(mono(), other))
	must(t, s.Shrink(mono(), other))
	if k.listed(t) == before {
		t.Fatal("nothing changed")
	}
	back := k.open(t)
	must(t, back.Put(mono(), c))
	if got := k.listed(t); got != before {
		t.Errorf("put back:\n%s\nwas:\n%s", got, before)
	}
	must(t, back.Put(mono(), c)) // and once more
	if got := k.listed(t); got != before {
		t.Errorf("put back twice:\n%s", got)
	}

	grown := w
	grown.Exposed = append(grown.Exposed, rules.Exposed{Addr: addr(3), Until: mono() + 26*time.Hour})
	must(t, s.Grow(mono(), grown))
	must(t, back.Put(mono(), c))
	if got := seen(t, back).Exposed; len(got) != 3 {
		t.Errorf("an address that was shown since then is unguarded: %v", got)
	}

	k.nft(t, "flush ruleset", "-f", "-")
	k.removeDevice(t, "eth1")
	must(t, back.Put(mono(), c))
	if got := k.listed(t); strings.Contains(got, "eth1") || !strings.Contains(got, "ingress_eth0") || !strings.Contains(got, addr(1).String()) {
		t.Errorf("put back without eth1 after a flush:\n%s", got)
	}
}

// TestPutBackNothing: where there was no table there is none again.
func TestPutBackNothing(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	c, err := s.Copy(mono())
	must(t, err)
	if removed, err := s.Remove(mono()); removed || err != nil {
		t.Errorf("removed %t, error %v", removed, err)
	}
	must(t, s.Grow(mono(), wish()))
	must(t, s.Put(mono(), c))
	must(t, s.Put(mono(), c))
	if got := k.listed(t); got != "" {
		t.Errorf("there is\n%s", got)
	}
	must(t, s.Grow(mono(), wish()))
	if removed, err := s.Remove(mono()); !removed || err != nil || k.listed(t) != "" {
		t.Errorf("removed %t, error %v", removed, err)
	}
}

// TestWhatRanOutStaysOut: elements are as much older as the copy is.
func TestWhatRanOutStaysOut(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	must(t, s.Grow(mono(), w))
	c, err := s.Copy(mono())
	must(t, err)
	_, err = s.Remove(mono())
	must(t, err)
	c.At -= time.Hour
	must(t, s.Put(mono(), c))
	got := seen(t, s)
	if len(got.Exposed) != 2 || len(got.Hoods) != 0 || len(got.Solicited) != 0 || got.Exposed[0].Until > mono()+25*time.Hour+time.Minute {
		t.Errorf("an hour later: %+v", got)
	}
}

// TestPutBackDormant: a table that somebody put to sleep sleeps again.
func TestPutBackDormant(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	must(t, s.Grow(mono(), wish()))
	k.nft(t, "", "add", "table", "inet", "ntpveil", "{ flags dormant; }")
	before := k.listed(t)
	c, err := s.Copy(mono())
	must(t, err)
	must(t, s.Grow(mono(), wish()))
	if k.listed(t) == before {
		t.Fatal("it still sleeps")
	}
	must(t, s.Put(mono(), c))
	if got := k.listed(t); got != before || !strings.Contains(got, "flags dormant") {
		t.Errorf("put back:\n%s\nwas:\n%s", got, before)
	}
}

// TestPutBackOwned: what a daemon owned is copied while it lives, and stays when
// whoever puts it back ends.
func TestPutBackOwned(t *testing.T) {
	k := newKernel(t)
	daemon, w := k.open(t), wish()
	w.Owner = true
	if err := daemon.Grow(mono(), w); errors.Is(err, ErrUnable) {
		t.Skip("flags owner and persist need Linux 6.9")
	} else {
		must(t, err)
	}
	copier := k.open(t)
	c, err := copier.Copy(mono())
	must(t, err)
	must(t, daemon.Close())
	must(t, copier.Put(mono(), c))
	must(t, copier.Close())
	if got := seen(t, k.open(t)); len(got.Exposed) != 2 {
		t.Errorf("put back:\n%s", k.listed(t))
	}
	again := k.open(t)
	must(t, again.Grow(mono(), w))
	if got := seen(t, again); !got.Owner || len(got.Exposed) != 2 {
		t.Errorf("the next daemon has %+v", got)
	}
}

// TestPutBackOfAnOwnerWhoIsGone: the kernel removes the table of an owner who ends,
// and is not to think that whoever puts it back is one.
func TestPutBackOfAnOwnerWhoIsGone(t *testing.T) {
	k := newKernel(t)
	owner, copier := k.open(t), k.open(t)
	b := &batch{}
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "make table", ours().u32(unix.NFTA_TABLE_FLAGS, tableOwner))
	_, err := owner.conn.commit(b)
	must(t, err)
	c, err := copier.Copy(mono())
	must(t, err)
	must(t, owner.Close())
	if got := k.listed(t); got != "" {
		t.Fatalf("there is\n%s", got)
	}
	must(t, copier.Put(mono(), c))
	must(t, copier.Close())
	if k.listed(t) == "" {
		t.Error("it is gone with whoever put it back")
	}
}

// TestPutBackLists: blocked prefixes are in no copy. Their sets come back empty,
// under the rules that were there, and the daemon fills them again.
func TestPutBackLists(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	w := wish()
	must(t, s.Grow(mono(), w))
	l := blockTo(t, s, w, many(20000, 48, true)+"192.0.2.7\n")
	set, single := rules.BlockedSet([]rules.List{l}, true, 48), rules.BlockedSet([]rules.List{l}, false, 32)
	k.nft(t, "", "add", "rule", "inet", "ntpveil", "leaving", "ip saddr @"+single+` drop comment "an admin's"`)
	before := k.listed(t)
	c, err := k.open(t).Copy(mono())
	must(t, err)
	text, err := json.Marshal(c)
	must(t, err)
	if len(text) > 64<<10 {
		t.Errorf("the copy has %d bytes", len(text))
	}
	other := w
	other.Preset, other.Devices = "lockdown", []string{"gone"}
	if err := s.Grow(mono(), other); !errors.Is(err, ErrNoDevice) {
		t.Fatal(err)
	}
	back := k.open(t)
	must(t, back.Put(mono(), c))
	if n := k.elementsOf(set); n != 20000 {
		t.Errorf("nothing had changed, and %d prefixes are there", n)
	}
	other.Devices = nil
	must(t, s.Grow(mono(), other))
	must(t, back.Put(mono(), c))
	if n := k.elementsOf(set); n != 0 {
		t.Errorf("%d prefixes are there", n)
	}
	blocked := regexp.MustCompile(`(?s)(set blocked[^}]*?)\n\t\telements = \{[^}]*\}`)
	if got, want := k.listed(t), blocked.ReplaceAllString(before, "$1"); got != want {
		t.Errorf("put back:\n%s\nwas:\n%s", got, want)
	}
	k.nft(t, "flush ruleset\n"+k.nft(t, "", "list", "ruleset"), "-c", "-f", "-")

	daemon := k.open(t)
	must(t, daemon.Grow(mono(), w))
	w.Lists = []rules.List{l}
	changed, err := daemon.Block(t.Context(), mono(), w)
	if n := k.elementsOf(set); err != nil || !changed || n != 20000 {
		t.Errorf("the daemon loaded %d prefixes, changed %t, error %v", n, changed, err)
	}
}

// TestNoCopyOfWhatCannotBePutBack: it says what is in the way, and leaves the table
// as it is.
func TestNoCopyOfWhatCannotBePutBack(t *testing.T) {
	largeBatches(t)
	var large strings.Builder
	large.WriteString("add set inet ntpveil big { type ipv4_addr; }\n")
	for i := range 4000 {
		fmt.Fprintf(&large, "add element inet ntpveil big { 10.0.%d.%d }\n", i>>8, i&0xff)
	}
	for name, text := range map[string]string{
		"object mine, object much": "add counter inet ntpveil mine\nadd quota inet ntpveil much { over 5 mbytes; }\n",
		"flowtable fast":           "add flowtable inet ntpveil fast { hook ingress priority 0; devices = { eth0 }; }\n",
		"set big is too large":     large.String(),
	} {
		t.Run(name, func(t *testing.T) {
			k := newKernel(t)
			k.device(t, "eth0")
			s := k.open(t)
			must(t, s.Grow(mono(), wish()))
			if out, err := k.tryNft(text, "-f", "-"); err != nil && strings.Contains(text, "flowtable") {
				t.Logf("this kernel has no flowtables: %s", out)
				return
			} else if err != nil {
				t.Fatal(out)
			}
			must(t, unix.SetsockoptInt(s.conn.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 16<<10))
			before := k.nft(t, "", "list", "ruleset")
			_, err := s.Copy(mono())
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v", err)
			}
			if got := running.ReplaceAllString(k.nft(t, "", "list", "ruleset"), ""); got != running.ReplaceAllString(before, "") {
				t.Errorf("the rule sets changed:\n%s", got)
			}
		})
	}
}

// TestCopyDisturbsNobody: nobody is told of a change.
func TestCopyDisturbsNobody(t *testing.T) {
	k := newKernel(t)
	s := k.open(t)
	must(t, s.Grow(mono(), wish()))
	before, err := s.conn.generation()
	must(t, err)
	_, err = s.Copy(mono())
	must(t, err)
	after, err := s.conn.generation()
	must(t, err)
	if before != after || strings.Count(k.nft(t, "", "list", "tables"), "table") != 1 {
		t.Errorf("generation %d, then %d; %s", before, after, k.nft(t, "", "list", "tables"))
	}
}

// FuzzPut: whatever is in a copy, making a batch of it ends.
func FuzzPut(f *testing.F) {
	f.Add([]byte(`{"at":1,"parts":[{"type":2569,"data":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c Copy
		if json.Unmarshal(text, &c) != nil {
			return
		}
		parts := c.merge(time.Hour, c.Parts)
		for _, p := range parts {
			_ = renamed(ownerless(p.Data), p.label())
		}
		_ = largest(parts)
	})
}
