package nts

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/daemon"
	"ntpveil/guard/guardtest"
	"ntpveil/guard/lab"
	"ntpveil/guard/sysclock"
)

var _ daemon.Keyer = (*Keyer)(nil)

func TestConforms(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	guardtest.ConformKeyer(t, func(t *testing.T) guardtest.KeyerBench {
		l := newLiar(t)
		l.speak = func(c *tls.Conn) { l.say(c, protocolRecord, algorithmRecord, cookieRecord(100), endRecord) }
		return guardtest.KeyerBench{Keyer: l.keyer(), Now: sysclock.Mono, From: func() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:0") },
			Name: serverName, Honest: l.ke, Silent: silent.Addr().(*net.TCPAddr).AddrPort()}
	})
}

func TestKeysAreThoseOfTheServer(t *testing.T) {
	l := newLiar(t)
	ev := l.key(5*time.Second, time.Time{})
	if ev.Err != nil || ev.Key != 7 || ev.Host != "" || ev.Port != l.ntp.Port() || len(ev.Cookies) != maxCookies {
		t.Fatalf("%+v", ev)
	}
	if !bytes.Equal(ev.Keys.ToServer, l.keys.ToServer) || !bytes.Equal(ev.Keys.ToClient, l.keys.ToClient) || len(ev.Keys.ToServer) != sivKey ||
		bytes.Equal(ev.Keys.ToServer, ev.Keys.ToClient) || ev.Keys.AEAD != aesSIVCMAC256 {
		t.Error("the keys are not those of the session")
	}
	if now := time.Now(); now.Before(ev.Keys.NotBefore) || now.After(ev.Keys.NotAfter) {
		t.Errorf("the certificate holds from %s to %s", ev.Keys.NotBefore, ev.Keys.NotAfter)
	}
	if text := fmt.Sprintf("%v %+v %#v %x", ev, ev, ev, ev.Cookies); strings.Contains(text, fmt.Sprintf("%x", []byte(ev.Cookies[0]))) ||
		strings.Contains(text, fmt.Sprint([]byte(ev.Keys.ToServer))) || !strings.Contains(text, "(secret of 32 bytes)") {
		t.Errorf("printed as %s", text)
	}
}

// TestTheServerNamesAnother: address or name, with a port or without.
func TestTheServerNamesAnother(t *testing.T) {
	l := newLiar(t)
	for host, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1", "::ffff:192.0.2.1": "192.0.2.1", "ntp1.nts.example": "ntp1.nts.example", "ntp1.nts.example.": "ntp1.nts.example",
	} {
		l.speak = func(c *tls.Conn) {
			l.say(c, protocolRecord, algorithmRecord, appendRecord(nil, critical|serverRecord, []byte(host)), appendRecord(nil, 0x1234, []byte("who knows")), cookieRecord(64), endRecord)
		}
		if ev := l.key(5*time.Second, time.Time{}); ev.Err != nil || ev.Host != want || ev.Port != 123 || len(ev.Cookies) != 1 {
			t.Errorf("%s: %+v", host, ev)
		}
	}
}

// keyLies are what section 4 of the RFC says that no server's records may be.
func keyLies() map[string][]byte {
	two := appendRecord(nil, critical|nextProtocol, []byte{0, 0, 0x80, 0})
	join := func(r ...[]byte) []byte { return slices.Concat(r...) }
	with := func(kind uint16, body string) []byte {
		return join(protocolRecord, algorithmRecord, appendRecord(nil, kind, []byte(body)), cookieRecord(100), endRecord)
	}
	rest := join(algorithmRecord, cookieRecord(100), endRecord)
	late := join(cookieRecord(100), endRecord)
	return map[string][]byte{
		"more than 16384 bytes of records":                   join(protocolRecord, algorithmRecord, bytes.Repeat(appendRecord(nil, 0x1234, make([]byte, 1000)), 20), late),
		"more than 16384 bytes of records (one)":             join(protocolRecord, appendRecord(nil, 0x1234, make([]byte, 65000)), rest),
		"more than 16384 bytes of records (empty)":           bytes.Repeat(appendRecord(nil, 0x1234, nil), 20_000),
		"the server's message has no end":                    join(protocolRecord, algorithmRecord, cookieRecord(100)),
		"the server's message has no end (cut)":              join(protocolRecord, algorithmRecord, cookieRecord(100)[:50]),
		"the server's message has no end (none)":             nil,
		"the end of the message is malformed":                join(protocolRecord, algorithmRecord, cookieRecord(100), appendRecord(nil, must(endOfMessage), []byte{1})),
		"the end of the message is malformed (not critical)": join(protocolRecord, algorithmRecord, cookieRecord(100), appendRecord(nil, endOfMessage, nil)),
		"the server agreed on no protocol":                   rest,
		"the server does not offer NTPv4":                    join(appendRecord(nil, critical|nextProtocol, nil), rest),
		"the server does not offer NTPv4 (another)":          join(appendRecord(nil, critical|nextProtocol, []byte{0x80, 0}), rest),
		"the server does not offer NTPv4 (two)":              join(two, rest),
		"a second record of type 1":                          join(protocolRecord, protocolRecord, rest),
		"a record of type 1 that is not critical":            join(appendRecord(nil, nextProtocol, []byte{0, 0}), rest),
		"the server agreed on no algorithm":                  join(protocolRecord, late),
		"the server does not offer AEAD":                     join(protocolRecord, appendRecord(nil, aeadAlgorithm, nil), late),
		"the server does not offer AEAD (another)":           join(protocolRecord, appendRecord(nil, aeadAlgorithm, []byte{0, 30}), late),
		"the server does not offer AEAD (two)":               join(protocolRecord, appendRecord(nil, aeadAlgorithm, []byte{0, 15, 0, 30}), late),
		"a second record of type 4":                          join(protocolRecord, algorithmRecord, rest),
		"the server gave no usable cookie":                   join(protocolRecord, algorithmRecord, endRecord),
		"the server gave no usable cookie (empty)":           join(protocolRecord, algorithmRecord, cookieRecord(0), endRecord),
		"the server gave no usable cookie (short)":           join(protocolRecord, algorithmRecord, cookieRecord(8), endRecord),
		"the server gave no usable cookie (odd)":             join(protocolRecord, algorithmRecord, cookieRecord(99), endRecord),
		"the server gave no usable cookie (huge)":            join(protocolRecord, algorithmRecord, cookieRecord(260), endRecord),
		"the server says: unrecognised critical record":      with(critical|errorRecord, "\x00\x00"),
		"the server says: bad request":                       join(appendRecord(nil, critical|errorRecord, []byte{0, 1}), endRecord),
		"the server says: internal server error":             join(appendRecord(nil, critical|errorRecord, []byte{0, 2}), endRecord),
		"the server says: error 999":                         with(critical|errorRecord, "\x03\xe7"),
		"an error record of a wrong length":                  with(critical|errorRecord, "oh dear"),
		"a record of type 2 that is not critical":            with(errorRecord, "\x00\x01"),
		"the server warns of 1":                              with(critical|warningRecord, "\x00\x01"),
		"a record of type 3 that is not critical":            with(warningRecord, "\x00\x01"),
		"an unknown critical record, of type 4660":           with(critical|0x1234, "who knows"),
		"an unknown critical record, of type 8":              with(critical|8, ""),
		"the port to ask is none":                            with(critical|portRecord, "\x00\x00"),
		"the port to ask is none (empty)":                    with(portRecord, ""),
		"the port to ask is none (long)":                     with(portRecord, "\x00\x7b\x00\x7b"),
		"a second record of type 7":                          join(appendRecord(nil, portRecord, []byte{0, 123}), with(portRecord, "\x00\x7b")),
		"a second record of type 6":                          join(appendRecord(nil, serverRecord, []byte("192.0.2.1")), with(serverRecord, "192.0.2.2")),
		"neither an address nor a name":                      with(serverRecord, ""),
		"neither an address nor a name (zone)":               with(serverRecord, "fe80::1%eth0"),
		"neither an address nor a name (rubbish)":            with(serverRecord, "a b.example"),
		"neither an address nor a name (binary)":             with(serverRecord, "\x00\xff\x1b[2J"),
		"neither an address nor a name (dots)":               with(serverRecord, "a..example"),
		"neither an address nor a name (local)":              with(serverRecord, "localhost"),
		"neither an address nor a name (long)":               with(serverRecord, strings.Repeat("a.", 200)+"example"),
		"neither an address nor a name (long label)":         with(serverRecord, strings.Repeat("a", 64)+".example"),
		"neither an address nor a name (bracketed)":          with(serverRecord, "[2001:db8::1]"),
		"neither an address nor a name (with a port)":        with(serverRecord, "ntp.example:123"),
	}
}

func (l *liar) refused(t *testing.T, ev guard.Keyed, want string) {
	t.Helper()
	want, _, _ = strings.Cut(want, " (")
	if ev.Err == nil || !strings.Contains(ev.Err.Error(), want) || !strings.HasPrefix(ev.Err.Error(), "exchange keys with "+l.ke.String()+": ") || len(ev.Err.Error()) > 300 {
		t.Errorf("error %v, want %q", ev.Err, want)
	}
	if ev.Key != 7 || len(ev.Cookies) > 0 || ev.Keys.ToServer != nil || ev.Host != "" {
		t.Errorf("something was taken of it: %+v", ev)
	}
}

func TestNoRecordThatLiesIsTaken(t *testing.T) {
	l := newLiar(t)
	for want, records := range keyLies() {
		t.Run(want, func(t *testing.T) {
			l.speak = func(c *tls.Conn) { l.say(c, records) }
			l.refused(t, l.key(5*time.Second, time.Time{}), want)
		})
	}
}

// TestWhoeverIsNotTheServer: of another name, of nobody that is trusted, out of its
// time, or with a protocol that is not wanted.
func TestWhoeverIsNotTheServer(t *testing.T) {
	now := time.Now()
	stranger, err := lab.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(l *liar){
		"certificate is valid for other.example": func(l *liar) { l.certify(lab.Certificate{Names: []string{"other.example"}}) },
		"certificate is valid for (many)":        func(l *liar) { l.certify(lab.Certificate{Names: manyNames()}) },
		"signed by unknown authority": func(l *liar) {
			l.authority, stranger = stranger, l.authority
			l.certify(lab.Certificate{Names: []string{serverName}})
			l.authority, stranger = stranger, l.authority
		},
		"has expired or is not yet valid: current time": func(l *liar) {
			l.certify(lab.Certificate{Names: []string{serverName}, NotBefore: now.AddDate(0, -2, 0), NotAfter: now.AddDate(0, -1, 0)})
		},
		"(or the host's clock is wrong)": func(l *liar) {
			l.certify(lab.Certificate{Names: []string{serverName}, NotBefore: now.AddDate(0, 1, 0), NotAfter: now.AddDate(0, 2, 0)})
		},
		"the server does not speak ntske/1": func(l *liar) { l.tls.NextProtos = nil },
		"no application protocol":           func(l *liar) { l.tls.NextProtos = []string{"h2"} },
		"protocol version":                  func(l *liar) { l.tls.MaxVersion = tls.VersionTLS12 },
	} {
		t.Run(want, func(t *testing.T) {
			l := newLiar(t)
			spoil(l)
			l.refused(t, l.key(5*time.Second, time.Time{}), strings.TrimSuffix(want, " (many)"))
		})
	}
}

func manyNames() (all []string) {
	for i := range 500 {
		all = append(all, fmt.Sprintf("name-%d.example", i))
	}
	return all
}

// TestAClockThatIsCertainlyWrong stands before the floor: then a certificate is
// good that is valid at some time after it, and no other.
func TestAClockThatIsCertainlyWrong(t *testing.T) {
	floor := time.Now().AddDate(1, 0, 0)
	for name, tt := range map[string]struct {
		from, to time.Time
		name     string
		want     string
	}{
		"valid at the floor":     {floor.AddDate(0, -1, 0), floor.AddDate(0, 1, 0), serverName, ""},
		"valid after it":         {floor.AddDate(2, 0, 0), floor.AddDate(2, 3, 0), serverName, ""},
		"expired before it":      {floor.AddDate(0, -2, 0), floor.AddDate(0, -1, 0), serverName, "has expired"},
		"valid by the clock":     {time.Now().Add(-time.Hour), time.Now().Add(time.Hour), serverName, "has expired"},
		"of another name":        {floor, floor.AddDate(0, 1, 0), "other.example", "certificate is valid for other.example"},
		"over before it begins ": {floor.AddDate(0, 2, 0), floor.AddDate(0, 1, 0), serverName, "has expired"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t)
			l.certify(lab.Certificate{Names: []string{tt.name}, NotBefore: tt.from, NotAfter: tt.to})
			ev := l.key(5*time.Second, floor)
			if tt.want != "" {
				l.refused(t, ev, tt.want)
			} else if ev.Err != nil || !ev.Keys.NotAfter.Equal(tt.to.Truncate(time.Second)) {
				t.Errorf("%+v", ev)
			}
		})
	}
	l, stranger := newLiar(t), newLiar(t)
	stranger.certify(lab.Certificate{Names: []string{serverName}, NotBefore: floor, NotAfter: floor.AddDate(0, 1, 0)})
	l.tls.Certificates = stranger.tls.Certificates
	l.refused(t, l.key(5*time.Second, floor), "signed by unknown authority")
}

// TestTheDeadlineHolds, however slowly a server goes about it.
func TestTheDeadlineHolds(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	drip := func(c net.Conn, text []byte) {
		for _, x := range text {
			if _, err := c.Write([]byte{x}); err != nil {
				return
			}
			select {
			case <-stuck:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	for name, speak := range map[string]func(l *liar) func(c *tls.Conn){
		"silent after the handshake": func(*liar) func(c *tls.Conn) { return func(*tls.Conn) { <-stuck } },
		"a byte at a time": func(*liar) func(c *tls.Conn) {
			return func(c *tls.Conn) { drip(c, appendRecord(nil, 0x1234, make([]byte, 1000))) }
		},
		"without an end": func(l *liar) func(c *tls.Conn) { return func(c *tls.Conn) { l.say(c, protocolRecord); <-stuck } },
	} {
		l := newLiar(t)
		l.speak = speak(l)
		began := time.Now()
		ev := l.key(300*time.Millisecond, time.Time{})
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
		l.refused(t, ev, "the server was too slow")
	}
	l := newLiar(t)
	l.refused(t, l.key(-time.Second, time.Time{}), "no time left")
}

// TestNotEvenTLS: silence, rubbish, and more of it than anybody needs.
func TestNotEvenTLS(t *testing.T) {
	for name, tt := range map[string]struct {
		speak func(c net.Conn)
		want  string
	}{
		"hangs up": {func(net.Conn) {}, ""},
		"rubbish":  {func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte("HTTP/1.1 400 no\r\n"), 100)) }, "does not look like a TLS handshake"},
		"empty handshakes": {func(c net.Conn) { // of a record's full length, again and again
			for err := error(nil); err == nil; {
				_, err = c.Write(append([]byte{22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff}, make([]byte, 0x4000-4)...))
			}
		}, ""},
		"warnings without end": {func(c net.Conn) {
			for err := error(nil); err == nil; {
				_, err = c.Write(bytes.Repeat([]byte{20, 3, 3, 0, 1, 1}, 1000))
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t)
			listening, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listening.Close()
			l.ke = listening.Addr().(*net.TCPAddr).AddrPort()
			go func() {
				if c, err := listening.Accept(); err == nil {
					tt.speak(c)
					c.Close()
				}
			}()
			l.refused(t, l.key(5*time.Second, time.Time{}), tt.want)
		})
	}
}

// TestItLeavesFromWhereItIsTold, with segments that fit through every path, and
// ends when it is cancelled.
func TestItLeavesFromWhereItIsTold(t *testing.T) {
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	free, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	from := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan guard.Keyed)
	go func() {
		k := Keyer{Now: sysclock.Mono}
		ended <- k.Key(ctx, guard.Keying{Key: 3, From: from, To: listening.Addr().(*net.TCPAddr).AddrPort(), Name: serverName, By: sysclock.Mono() + time.Hour})
	}()
	c, err := listening.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().(*net.TCPAddr).AddrPort(); got != from {
		t.Errorf("it came from %s, not from %s", got, from)
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG); err != nil || n > segment {
			t.Errorf("the server's segments are of %d bytes (%v)", n, err)
		}
	})
	cancel()
	if ev := <-ended; ev.Err == nil || ev.Key != 3 {
		t.Errorf("%+v", ev)
	}
	taken := Keyer{Now: sysclock.Mono}
	ev := taken.Key(t.Context(), guard.Keying{From: netip.MustParseAddrPort("192.0.2.1:4000"), To: from, By: sysclock.Mono() + time.Second})
	if ev.Err == nil {
		t.Error("an address that is not ours was asked from")
	}
}

// TestNothingComesAfterwards: a server that ends the connection sees it ended in
// order; one that does not is reset, and so is one that lied.
func TestNothingComesAfterwards(t *testing.T) {
	ends := make(chan error, 1)
	for name, tt := range map[string]struct {
		speak func(l *liar, c *tls.Conn)
		reset bool
	}{
		"ends it too": {func(l *liar, c *tls.Conn) {
			l.say(c, l.honestRecords()...)
			_, err := c.Read(make([]byte, 1)) // the client's own end
			_ = c.Close()
			ends <- err
		}, false},
		"goes on": {func(l *liar, c *tls.Conn) {
			l.say(c, l.honestRecords()...)
			_, err := c.NetConn().Write(make([]byte, 64<<20))
			ends <- err
		}, true},
		"lies": {func(l *liar, c *tls.Conn) {
			l.say(c, endRecord)
			_, err := c.NetConn().Read(make([]byte, 1))
			ends <- err
		}, true},
	} {
		l := newLiar(t)
		l.speak = func(c *tls.Conn) { tt.speak(l, c) }
		began := time.Now()
		_ = l.key(10*time.Second, time.Time{})
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
		if err := <-ends; errors.Is(err, unix.ECONNRESET) != tt.reset && errors.Is(err, unix.EPIPE) != tt.reset {
			t.Errorf("%s: the server's connection ended with %v", name, err)
		}
	}
}

// FuzzRecords: whatever a server says, what is taken of it is bounded and usable.
func FuzzRecords(f *testing.F) {
	f.Add(slices.Concat(protocolRecord, algorithmRecord, cookieRecord(100), endRecord))
	for _, records := range keyLies() {
		f.Add(records[:min(len(records), 2000)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAgreement(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(a.cookies) == 0 || len(a.cookies) > maxCookies || a.port == 0 || len(a.host) > maxHost {
			t.Errorf("%+v", a)
		}
		if _, err := netip.ParseAddr(a.host); a.host != "" && err != nil && !isName(a.host) {
			t.Errorf("host %q", a.host)
		}
		for _, c := range a.cookies {
			if !usableCookie(c) {
				t.Errorf("a cookie of %d bytes", len(c))
			}
		}
	})
}
