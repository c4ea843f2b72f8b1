package nft

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

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

// an admin's own chain and rules beside ours, with a set of every shape.
const extra = `add chain inet ntpveil mine
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

// FuzzPut: whatever is in a copy, making a batch of it ends.
func FuzzPut(f *testing.F) {
	f.Add([]byte(`{"at":1,"parts":[{"type":2569,"data":"AAAA"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c Copy
		if json.Unmarshal(text, &c) != nil {
			return
		}
		for _, p := range c.merge(time.Hour, c.Parts) {
			_ = p.name()
		}
	})
}
