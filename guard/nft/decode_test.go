package nft

import (
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// FuzzDecode: whatever a message holds, reading it ends and harms nothing.
func FuzzDecode(f *testing.F) {
	b := &batch{}
	t, _ := rules.Compile(wish("eth0"))
	b.table(t)
	for _, s := range t.Sets {
		b.set(s)
		b.elements(unix.NFT_MSG_NEWSETELEM, s.Name, s.Interval, []element{{key: "abcd", end: "abce", timeout: time.Hour, comment: "c", counter: true, packets: 7}})
	}
	for _, c := range t.Chains {
		b.chain(c)
		for _, r := range c.Rules {
			_ = b.rule(c.Name, r)
		}
	}
	for _, m := range b.msgs {
		f.Add(m.typ, append(header(unix.NFPROTO_INET), m.data...))
	}
	f.Fuzz(func(t *testing.T, typ uint16, data []byte) {
		if kind, about := decodeNotice(nftType(typ), data); about && kind == unix.NFT_MSG_NEWGEN {
			t.Error("a generation is about no table")
		}
		decodeTable(body(data))
		decodeSet(body(data))
		decodeChain(body(data))
		decodeRule(body(data))
		dropsAtLast(body(data))
		held(time.Hour, decodeElements(body(data)))
		for _, c := range decodeGeneration(body(data)).culprit() {
			if c < ' ' || c > '~' {
				t.Errorf("culprit with %q", c)
			}
		}
	})
}

func TestDecodeUndoesEncode(t *testing.T) {
	b := &batch{}
	b.elements(unix.NFT_MSG_NEWSETELEM, "s", true, []element{
		{key: "\x0a\x00\x00\x00", end: "\x0b\x00\x00\x00", comment: "c"}, {key: "\x0b\x00\x00\x00", end: "\x0c\x00\x00\x00", packets: 7, counter: true},
		{key: "\xff\x00\x00\x00"},
	})
	got := held(0, decodeElements(b.msgs[0].data))
	want := map[string]elementHeld{
		"\x0a\x00\x00\x00": {until: forever, end: "\x0b\x00\x00\x00", comment: "c"},
		"\x0b\x00\x00\x00": {until: forever, end: "\x0c\x00\x00\x00", packets: 7},
		"\xff\x00\x00\x00": {until: forever},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestNoticeIsAboutOurTable(t *testing.T) {
	for _, x := range []struct {
		family byte
		name   string
		want   bool
	}{{unix.NFPROTO_INET, "ntpveil", true}, {unix.NFPROTO_INET, "ntpveil2", false}, {unix.NFPROTO_IPV4, "ntpveil", false}} {
		data := append(header(x.family), attrs(nil).text(1, x.name)...)
		if _, about := decodeNotice(nftType(unix.NFT_MSG_DELTABLE), data); about != x.want {
			t.Errorf("%+v: %v", x, about)
		}
	}
}
