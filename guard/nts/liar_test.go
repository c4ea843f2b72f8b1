package nts

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/guardtest"
	"ntpveil/guard/lab"
	"ntpveil/guard/query"
	"ntpveil/guard/sysclock"
)

// TestMain lets the tests run in a network namespace of their own too.
func TestMain(m *testing.M) {
	if err := guardtest.Loopback(); err != nil {
		panic(err)
	}
	m.Run()
}

const serverName = "nts.example"

// liar is an NTS server on loopback that is honest, unless it is told otherwise.
type liar struct {
	t         *testing.T
	authority *lab.Authority
	tls       *tls.Config
	speak     func(c *tls.Conn) // its side of a key exchange

	ke  netip.AddrPort
	ntp netip.AddrPort

	mu     sync.Mutex
	keys   guard.NTSKeys
	answer func(q asked) [][]byte // to a query
	seen   []asked
}

func newLiar(t *testing.T) *liar {
	t.Helper()
	l := &liar{t: t}
	var err error
	if l.authority, err = lab.NewAuthority(); err != nil {
		t.Fatal(err)
	}
	l.tls = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{alpn}}
	l.certify(lab.Certificate{Names: []string{serverName}})
	l.speak = func(c *tls.Conn) { l.say(c, l.honestRecords()...) }
	l.answer = func(q asked) [][]byte { return [][]byte{q.honest()} }
	l.listen()
	return l
}

func (l *liar) certify(c lab.Certificate) {
	l.t.Helper()
	cert, key, err := l.authority.Issue(c)
	if err != nil {
		l.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		l.t.Fatal(err)
	}
	l.tls.Certificates = []tls.Certificate{pair}
}

func (l *liar) listen() {
	l.t.Helper()
	ke, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	ntp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ke.Close(); ntp.Close() })
	l.ke, l.ntp = ke.Addr().(*net.TCPAddr).AddrPort(), ntp.LocalAddr().(*net.UDPAddr).AddrPort()
	go func() {
		for {
			c, err := ke.Accept()
			if err != nil {
				return
			}
			go l.serveKeys(tls.Server(c, l.tls))
		}
	}()
	go l.serveTime(ntp)
}

func (l *liar) serveKeys(c *tls.Conn) {
	defer c.Close()
	if c.Handshake() != nil {
		return
	}
	got := make([]byte, len(request()))
	if _, err := c.Read(got); err != nil {
		return
	}
	l.speak(c)
}

// say sends records, and remembers the keys of the session.
func (l *liar) say(c *tls.Conn, records ...[]byte) {
	state := c.ConnectionState()
	l.mu.Lock()
	l.keys.AEAD = aesSIVCMAC256
	l.keys.ToServer, _ = export(state, 0)
	l.keys.ToClient, _ = export(state, 1)
	l.mu.Unlock()
	_, _ = c.Write(slices.Concat(records...))
}

var (
	protocolRecord  = appendRecord(nil, critical|nextProtocol, []byte{0, 0})
	algorithmRecord = appendRecord(nil, aeadAlgorithm, []byte{0, 15})
	endRecord       = appendRecord(nil, must(endOfMessage), nil)
)

func cookieRecord(n int) []byte { return appendRecord(nil, newCookie, randomBytes(n)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// honestRecords send a client to the liar's own port.
func (l *liar) honestRecords() [][]byte {
	out := [][]byte{protocolRecord, algorithmRecord, appendRecord(nil, critical|portRecord, binary.BigEndian.AppendUint16(nil, l.ntp.Port()))}
	for range maxCookies {
		out = append(out, cookieRecord(100))
	}
	return append(out, endRecord)
}

// keyer trusts the liar's authority.
func (l *liar) keyer() *Keyer {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(l.authority.PEM())
	return &Keyer{Now: sysclock.Mono, Roots: pool}
}

// key makes a key exchange with the liar.
func (l *liar) key(within time.Duration, floor time.Time) guard.Keyed {
	return l.keyer().Key(context.Background(), guard.Keying{Key: 7, From: netip.MustParseAddrPort("127.0.0.1:0"), To: l.ke, Name: serverName,
		By: sysclock.Mono() + within, Floor: floor})
}

// ask makes a protected query.
func (l *liar) ask(n guard.NTS, within time.Duration) guard.Answered {
	a := query.Asker{Now: sysclock.Mono, Protect: func(n guard.NTS) (query.Protection, error) { return Protect(n) }}
	ctx, cancel := context.WithCancel(context.Background())
	var ev guard.Answered
	a.Ask(ctx, guard.Ask{Key: 8, From: netip.MustParseAddrPort("127.0.0.1:0"), To: l.ntp, By: sysclock.Mono() + within, NTS: &n}, func(got guard.Answered) {
		ev = got
		cancel()
	})
	return ev
}

// keyed is a key exchange that goes well, as the protection of a query.
func (l *liar) keyed() guard.NTS {
	l.t.Helper()
	ev := l.key(5*time.Second, time.Time{})
	if ev.Err != nil {
		l.t.Fatal(ev.Err)
	}
	return guard.NTS{Keys: ev.Keys, Cookie: ev.Cookies[0], Want: 3}
}

func (l *liar) serveTime(c net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		q := l.read(slices.Clone(b[:n]))
		l.mu.Lock()
		l.seen = append(l.seen, q)
		answer := l.answer
		l.mu.Unlock()
		for _, p := range answer(q) {
			_, _ = c.WriteTo(p, from)
		}
	}
}

// heard is every query so far.
func (l *liar) heard() []asked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.seen)
}

// asked is a query as the server reads it.
type asked struct {
	packet       []byte
	unique       []byte
	cookie       []byte
	placeholders int
	valid        bool // its authenticator fits
	toClient     *siv
}

func (l *liar) read(b []byte) asked {
	q := asked{packet: b}
	l.mu.Lock()
	toServer, _ := newSIV(l.keys.ToServer)
	q.toClient, _ = newSIV(l.keys.ToClient)
	l.mu.Unlock()
	_ = fields(b, headerLen, func(f field) (bool, error) {
		switch f.kind {
		case uniqueField:
			q.unique = f.body
		case cookieField:
			q.cookie = f.body
		case placeholderField:
			q.placeholders++
		case authenticatorField:
			nonce, sealed, err := split(f.body)
			if err == nil {
				_, err = toServer.open(sealed, b[:f.start], nonce)
			}
			q.valid = err == nil && f.start+fieldHeader+len(f.body) == len(b)
		}
		return false, nil
	})
	return q
}

const era = 2208988800 // from 1900 to 1970

// header answers a query with the time, which is off by so much.
func (q asked) header(off time.Duration) []byte {
	now := time.Now().Add(off)
	b := make([]byte, headerLen)
	b[0], b[1], b[3] = 0x24, 2, 0xe7
	copy(b[24:], q.packet[40:48])
	for _, at := range []int{16, 32, 40} {
		binary.BigEndian.PutUint32(b[at:], uint32(now.Unix()+era))
		binary.BigEndian.PutUint32(b[at+4:], uint32(uint64(now.Nanosecond())<<32/1e9))
	}
	return b
}

// kiss makes a kiss-o'-death of a header.
func kiss(b []byte, code string) []byte {
	b[0], b[1] = 0xe4, 0
	copy(b[12:], code)
	return b
}

// identified appends the query's unique identifier.
func (q asked) identified(b []byte) []byte { return appendField(b, uniqueField, q.unique) }

// sealed appends an authenticator over all before it, with encrypted fields.
func (q asked) sealed(b, inner []byte) []byte {
	return sealedBy(q.toClient, b, inner, randomBytes(nonceLen))
}

func sealedBy(s *siv, b, inner, nonce []byte) []byte {
	text := s.seal(inner, b, nonce)
	body := binary.BigEndian.AppendUint16(nil, uint16(len(nonce)))
	body = binary.BigEndian.AppendUint16(body, uint16(len(text)))
	body = append(append(body, nonce...), make([]byte, padded(len(nonce))-len(nonce))...)
	return appendField(b, authenticatorField, append(body, text...))
}

// cookies are encrypted fields with so many of them.
func cookies(n int) (b []byte) {
	for range n {
		b = appendField(b, cookieField, randomBytes(100))
	}
	return b
}

// honest answers as the RFC has it.
func (q asked) honest() []byte {
	return q.sealed(q.identified(q.header(0)), cookies(1+q.placeholders))
}
