package nts

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard"
)

const off = time.Hour // what a liar would move the clock by

// packetLies are what sections 5.3 to 5.7 of the RFC say that no answer may be.
// Each is an hour off, or a kiss, or gives cookies.
func packetLies(t *testing.T) map[string]func(q asked) []byte {
	forged := func(q asked) []byte { return q.sealed(q.identified(q.header(off)), cookies(2)) }
	edited := func(edit func(b []byte)) func(asked) []byte {
		return func(q asked) []byte {
			b := forged(q)
			edit(b)
			return b
		}
	}
	auth := headerLen + fieldHeader + uniqueLen // where the authenticator begins
	another, err := newSIV(make([]byte, sivKey))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]func(q asked) []byte{
		"a plain answer":           func(q asked) []byte { return q.header(off) },
		"no authenticator":         func(q asked) []byte { return q.identified(q.header(off)) },
		"cookies in the open":      func(q asked) []byte { return append(q.identified(q.header(off)), cookies(2)...) },
		"a wrong tag":              edited(func(b []byte) { b[auth+8+nonceLen]++ }),
		"a changed ciphertext":     edited(func(b []byte) { b[len(b)-1]++ }),
		"a changed nonce":          edited(func(b []byte) { b[auth+8]++ }),
		"a changed time":           edited(func(b []byte) { b[40]++; b[32]++ }),
		"a changed leap indicator": edited(func(b []byte) { b[0] |= 0x40 }),
		"another key":              func(q asked) []byte { return sealedBy(another, q.identified(q.header(off)), nil, randomBytes(16)) },
		"another identifier": func(q asked) []byte {
			return q.sealed(appendField(q.header(off), uniqueField, randomBytes(uniqueLen)), cookies(2))
		},
		"no identifier": func(q asked) []byte { return q.sealed(q.header(off), cookies(2)) },
		"a short identifier": func(q asked) []byte {
			return q.sealed(appendField(q.header(off), uniqueField, q.unique[:16]), cookies(2))
		},
		"a long identifier": func(q asked) []byte {
			return q.sealed(appendField(q.header(off), uniqueField, append(slices.Clone(q.unique), 0, 0, 0, 0)), nil)
		},
		"two identifiers":              func(q asked) []byte { return q.sealed(q.identified(q.identified(q.header(off))), cookies(2)) },
		"the identifier is not signed": func(q asked) []byte { return q.identified(q.sealed(q.header(off), cookies(2))) },
		"the identifier is encrypted":  func(q asked) []byte { return q.sealed(q.header(off), q.identified(nil)) },
		"a field before that no one signed": func(q asked) []byte {
			b := forged(q)
			return slices.Concat(b[:headerLen], appendField(nil, cookieField, randomBytes(100)), b[headerLen:])
		},
		"cut short":                     func(q asked) []byte { b := forged(q); return b[:len(b)-4] },
		"cut within the tag":            func(q asked) []byte { return forged(q)[:auth+8+nonceLen+4] },
		"cut within the header":         func(q asked) []byte { return forged(q)[:44] },
		"cut at a length of three":      func(q asked) []byte { b := forged(q); return b[:len(b)-1] },
		"a field of length 0":           edited(func(b []byte) { b[headerLen+2], b[headerLen+3] = 0, 0 }),
		"a field of length 4":           edited(func(b []byte) { b[headerLen+2], b[headerLen+3] = 0, 4 }),
		"a field of an odd length":      edited(func(b []byte) { b[headerLen+3]++ }),
		"a field beyond the end":        edited(func(b []byte) { b[auth+2] = 0xff }),
		"a nonce beyond the field":      edited(func(b []byte) { b[auth+4] = 0xff }),
		"no nonce":                      func(q asked) []byte { return sealedBy(q.toClient, q.identified(q.header(off)), cookies(2), nil) },
		"a ciphertext beyond the field": edited(func(b []byte) { b[auth+6] = 0xff }),
		"a ciphertext without a tag":    edited(func(b []byte) { b[auth+6], b[auth+7] = 0, 8 }),
		"an empty authenticator":        func(q asked) []byte { return appendField(q.identified(q.header(off)), authenticatorField, nil) },
		"malformed encrypted fields":    func(q asked) []byte { return q.sealed(q.identified(q.header(off)), randomBytes(15)) },
		"encrypted fields of length 0":  func(q asked) []byte { return q.sealed(q.identified(q.header(off)), make([]byte, 64)) },
		"a kiss without proof":          func(q asked) []byte { return q.identified(kiss(q.header(0), "DENY")) },
		"a kiss without an identifier":  func(q asked) []byte { return kiss(q.header(0), "RATE") },
		"a kiss of somebody else": func(q asked) []byte {
			return sealedBy(another, q.identified(kiss(q.header(0), "RSTR")), nil, randomBytes(16))
		},
		"a NAK without an identifier": func(q asked) []byte { return kiss(q.header(0), "NTSN") },
		"a NAK with another identifier": func(q asked) []byte {
			return appendField(kiss(q.header(0), "NTSN"), uniqueField, randomBytes(uniqueLen))
		},
		"a NAK that is not of stratum 0": func(q asked) []byte { b := kiss(q.header(0), "NTSN"); b[1] = 1; return q.identified(b) },
		"the query itself":               func(q asked) []byte { return q.packet },
		"the query, as an answer":        func(q asked) []byte { b := slices.Clone(q.packet); copy(b, q.header(off)); return b },
		"a wrong origin":                 func(q asked) []byte { b := q.header(off); b[24]++; return q.sealed(q.identified(b), nil) },
		"a request":                      func(q asked) []byte { b := q.header(off); b[0] = 0x23; return q.sealed(q.identified(b), nil) },
		"too long":                       func(q asked) []byte { return q.sealed(q.identified(q.header(off)), cookies(60)) },
	}
}

// TestNoLieIsBelieved: alone, a lie is no answer; before the honest answer it is
// read past.
func TestNoLieIsBelieved(t *testing.T) {
	l := newLiar(t)
	n := l.keyed()
	for name, lie := range packetLies(t) {
		t.Run(name, func(t *testing.T) {
			l.answers(func(q asked) [][]byte { return [][]byte{lie(q)} })
			if ev := l.ask(n, 100*time.Millisecond); ev.Err == nil || ev.Kiss != "" || ev.NAK || len(ev.Cookies) > 0 {
				t.Errorf("alone: %+v", ev)
			}
			l.answers(func(q asked) [][]byte { return [][]byte{lie(q), lie(q), q.honest()} })
			if ev := l.ask(n, 5*time.Second); ev.Err != nil || ev.Kiss != "" || ev.NAK || ev.Sample.Offset.Abs() > off/2 || len(ev.Cookies) != n.Want {
				t.Errorf("before the honest answer: %+v", ev)
			}
		})
	}
}

func (l *liar) answers(f func(q asked) [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = f
}

// TestAnOldAnswerIsNoAnswer: replayed, whatever of the new query is put into it.
func TestAnOldAnswerIsNoAnswer(t *testing.T) {
	l := newLiar(t)
	n := l.keyed()
	var old []byte
	l.answers(func(q asked) [][]byte {
		old = q.sealed(q.identified(q.header(off)), cookies(3))
		return [][]byte{old}
	})
	if ev := l.ask(n, 5*time.Second); ev.Err != nil {
		t.Fatal(ev.Err)
	}
	l.answers(func(q asked) [][]byte {
		origin, both := slices.Clone(old), slices.Clone(old)
		copy(origin[24:32], q.packet[40:48])
		copy(both[24:32], q.packet[40:48])
		copy(both[headerLen+fieldHeader:], q.unique)
		return [][]byte{old, origin, both}
	})
	if ev := l.ask(n, 100*time.Millisecond); ev.Err == nil || len(ev.Cookies) > 0 {
		t.Errorf("%+v", ev)
	}
}

// TestANAKIsToldAndProvesNothing: reading goes on, and an honest answer after it
// is the answer.
func TestANAKIsToldAndProvesNothing(t *testing.T) {
	l := newLiar(t)
	n := l.keyed()
	nak := func(q asked) []byte { return q.identified(kiss(q.header(0), "NTSN")) }
	l.answers(func(q asked) [][]byte { return [][]byte{nak(q)} })
	before := time.Now()
	ev := l.ask(n, 100*time.Millisecond)
	if !ev.NAK || ev.Err == nil || ev.Kiss != "" || len(ev.Cookies) > 0 || time.Since(before) < 100*time.Millisecond {
		t.Errorf("%+v", ev)
	}
	if strings.Contains(ev.Err.Error(), "secret") || !strings.Contains(ev.Err.Error(), "NTS NAK") {
		t.Errorf("the admin reads %q", ev.Err)
	}
	l.answers(func(q asked) [][]byte { return [][]byte{nak(q), q.honest()} })
	if ev := l.ask(n, 5*time.Second); ev.NAK || ev.Err != nil || len(ev.Cookies) != n.Want {
		t.Errorf("%+v", ev)
	}
}

// TestWhatAnAuthenticAnswerBrings: cookies only of its encrypted part, no more than
// were asked for, none that cannot be used; a kiss is a kiss.
func TestWhatAnAuthenticAnswerBrings(t *testing.T) {
	l := newLiar(t)
	n := l.keyed()
	for name, tt := range map[string]struct {
		answer func(q asked) []byte
		kiss   string
		n      int
	}{
		"honest":   {func(q asked) []byte { return q.honest() }, "", 3},
		"none":     {func(q asked) []byte { return q.sealed(q.identified(q.header(0)), nil) }, "", 0},
		"too many": {func(q asked) []byte { return q.sealed(q.identified(q.header(0)), cookies(20)) }, "", 3},
		"too long and fine": {func(q asked) []byte {
			return q.sealed(q.identified(q.header(0)), append(appendField(nil, cookieField, randomBytes(260)), cookies(1)...))
		}, "", 1},
		"in the open": {func(q asked) []byte {
			return q.sealed(append(q.identified(q.header(0)), cookies(2)...), cookies(1))
		}, "", 1},
		"behind it":      {func(q asked) []byte { return append(q.honest(), cookies(3)...) }, "", 3},
		"rubbish behind": {func(q asked) []byte { return append(q.honest(), 1, 2, 3, 4) }, "", 3},
		"unknown fields": {func(q asked) []byte {
			return q.sealed(appendField(q.identified(q.header(0)), 0x7777, randomBytes(20)), cookies(1))
		}, "", 1},
		"a long nonce": {func(q asked) []byte {
			return sealedBy(q.toClient, q.identified(q.header(0)), cookies(1), randomBytes(33))
		}, "", 1},
		"denies":          {func(q asked) []byte { return q.sealed(q.identified(kiss(q.header(0), "DENY")), cookies(2)) }, "DENY", 2},
		"wants less":      {func(q asked) []byte { return q.sealed(q.identified(kiss(q.header(0), "RATE")), cookies(3)) }, "RATE", 3},
		"a NAK, and true": {func(q asked) []byte { return q.sealed(q.identified(kiss(q.header(0), "NTSN")), cookies(3)) }, "NTSN", 3},
	} {
		t.Run(name, func(t *testing.T) {
			l.answers(func(q asked) [][]byte { return [][]byte{tt.answer(q)} })
			if ev := l.ask(n, 5*time.Second); ev.Err != nil || ev.Kiss != tt.kiss || len(ev.Cookies) != tt.n || ev.NAK {
				t.Errorf("%+v", ev)
			}
		})
	}
}

// TestTheQuery is as section 5.7 has it: one identifier, one cookie, a placeholder
// of its length for each further one, an authenticator over all of it; no two have
// anything in common but their shape, and it fits through every path.
func TestTheQuery(t *testing.T) {
	l := newLiar(t)
	n := l.keyed()
	for _, size := range []int{12, 100, maxCookie} {
		n.Cookie, n.Want = randomBytes(size), maxCookies
		for range 2 {
			if ev := l.ask(n, 5*time.Second); ev.Err != nil {
				t.Fatal(ev.Err)
			}
		}
		seen := l.heard()
		a, b := seen[len(seen)-2], seen[len(seen)-1]
		fit := min(maxCookies, 1+(roomy-headerLen-36-size-4-40)/(size+4))
		if !a.valid || !bytes.Equal(a.cookie, n.Cookie) || a.placeholders != fit-1 || len(a.packet) > roomy {
			t.Errorf("cookie of %d: valid %t, %d placeholders (%d fit), %d bytes", size, a.valid, a.placeholders, fit-1, len(a.packet))
		}
		if bytes.Equal(a.unique, b.unique) || len(a.unique) != uniqueLen || bytes.Equal(a.packet[40:48], b.packet[40:48]) {
			t.Errorf("two queries have the identifiers %x and %x", a.unique, b.unique)
		}
		if want := append([]byte{0x23, 0, 0, 0x20}, make([]byte, 36)...); !bytes.Equal(a.packet[:40], want) {
			t.Errorf("the header is %x", a.packet[:40])
		}
	}
}

// TestNothingIsSentWithoutProtection where the keys or the cookie are no good.
func TestNothingIsSentWithoutProtection(t *testing.T) {
	l := newLiar(t)
	good := l.keyed()
	for name, spoil := range map[string]func(n *guard.NTS){
		"another algorithm": func(n *guard.NTS) { n.Keys.AEAD = 30 },
		"a short key":       func(n *guard.NTS) { n.Keys.ToServer = n.Keys.ToServer[:16] },
		"no key":            func(n *guard.NTS) { n.Keys.ToClient = nil },
		"no cookie":         func(n *guard.NTS) { n.Cookie = nil },
		"an odd cookie":     func(n *guard.NTS) { n.Cookie = n.Cookie[:99] },
		"a huge cookie":     func(n *guard.NTS) { n.Cookie = make([]byte, 2000) },
	} {
		n := good
		spoil(&n)
		if ev := l.ask(n, time.Second); ev.Err == nil || !strings.HasPrefix(ev.Err.Error(), "protect query: ") {
			t.Errorf("%s: %+v", name, ev)
		}
	}
	if n := len(l.heard()); n != 0 {
		t.Errorf("%d queries left", n)
	}
}

// FuzzOpen: no datagram does harm, and only what the server sealed is its answer.
func FuzzOpen(f *testing.F) {
	keys := guard.NTSKeys{AEAD: aesSIVCMAC256, ToServer: make([]byte, sivKey), ToClient: bytes.Repeat([]byte{1}, sivKey)}
	p, err := Protect(guard.NTS{Keys: keys, Cookie: make([]byte, 100), Want: maxCookies})
	if err != nil {
		f.Fatal(err)
	}
	p.unique = [uniqueLen]byte{7}
	header := make([]byte, headerLen)
	nonce := make([]byte, nonceLen)
	honest := sealedBy(p.toClient, appendField(header, uniqueField, p.unique[:]), appendField(nil, cookieField, make([]byte, 100)), nonce)
	f.Add(honest)
	f.Add(appendField(kiss(header, "NTSN"), uniqueField, p.unique[:]))
	f.Add(honest[:len(honest)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		got, nak, ok := p.Open(b)
		if ok && !bytes.HasPrefix(b, honest) {
			t.Errorf("%d bytes pass for an answer", len(b))
		}
		if ok && nak || !ok && got != nil || len(got) > maxCookies {
			t.Errorf("ok=%t nak=%t and %d cookies", ok, nak, len(got))
		}
	})
}

// FuzzEncrypted: what a server encrypts is bounded too.
func FuzzEncrypted(f *testing.F) {
	f.Add(cookies(9))
	f.Add(binary.BigEndian.AppendUint32(nil, 0x02040004))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := cookiesOf(b, maxCookies)
		if len(got) > maxCookies {
			t.Errorf("%d cookies (%v)", len(got), err)
		}
		for _, c := range got {
			if !usableCookie(c) {
				t.Errorf("a cookie of %d bytes", len(c))
			}
		}
	})
}
