package nts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
)

const (
	alpn = "ntske/1"

	// segment is what fits into an IPv6 packet of 1280 bytes, which passes
	// everywhere: neither side needs to be told of a smaller path.
	segment = 1220

	// maxRead bounds all that is read of a server: a chain of certificates is some
	// 4 KiB, the records 2.
	maxRead = 128 << 10

	// giveUp is how long the kernel tries to deliver anything: the address is closed
	// to the server soon after.
	giveUp = 3 * time.Second

	// partWithin is how long the server has to end the connection when we have.
	partWithin = time.Second

	exporter = "EXPORTER-network-time-security"
)

// Keyer makes key exchanges. It may be used by several goroutines.
type Keyer struct {
	Now   func() time.Duration // reads CLOCK_MONOTONIC
	Roots *x509.CertPool       // nil: those of the system, or of SSL_CERT_FILE
}

// Key makes one key exchange. Its connection is closed when it returns.
func (k *Keyer) Key(ctx context.Context, job guard.Keying) guard.Keyed {
	ev, err := k.exchange(ctx, job)
	if err != nil {
		return guard.Keyed{Key: job.Key, Err: fmt.Errorf("exchange keys with %s: %w", job.To, plain(ctx, err))}
	}
	ev.Key = job.Key
	return ev
}

func (k *Keyer) exchange(ctx context.Context, job guard.Keying) (ev guard.Keyed, err error) {
	left := job.By - k.Now()
	if left <= 0 {
		return ev, errors.New("no time left")
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	raw, err := dial(ctx, job)
	if err != nil {
		return ev, err
	}
	defer raw.Close()
	_ = raw.SetLinger(0) // unless it ends in order
	defer context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })()
	c := tls.Client(&bounded{raw, maxRead}, k.config(job))
	if err := c.HandshakeContext(ctx); err != nil {
		return ev, err
	}
	if ev, err = agree(c); err == nil {
		part(c, raw)
	}
	return ev, err
}

// part ends a connection in order. A server that goes on with it when its tuple is
// gone would look as if it probed the address: where it does not end it soon, or
// anything went wrong, it is reset.
func part(c *tls.Conn, raw *net.TCPConn) {
	_ = raw.SetReadDeadline(time.Now().Add(partWithin))
	if c.CloseWrite() != nil || raw.CloseWrite() != nil {
		return
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(raw, maxRead)); err == nil && n < maxRead {
		_ = raw.SetLinger(-1)
	}
}

// agree speaks the key exchange over a connection that is up.
func agree(c *tls.Conn) (ev guard.Keyed, err error) {
	state := c.ConnectionState()
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != alpn {
		return ev, fmt.Errorf("the server does not speak %s", alpn)
	}
	if _, err := c.Write(request()); err != nil {
		return ev, err
	}
	a, err := readAgreement(c)
	if err != nil {
		return ev, err
	}
	leaf := state.PeerCertificates[0]
	ev = guard.Keyed{Cookies: a.cookies, Host: a.host, Port: a.port,
		Keys: guard.NTSKeys{AEAD: aesSIVCMAC256, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}}
	if ev.Keys.ToServer, err = export(state, 0); err != nil {
		return ev, err
	}
	ev.Keys.ToClient, err = export(state, 1)
	return ev, err
}

// export draws a key from the session, of one direction (section 5.1).
func export(state tls.ConnectionState, direction byte) (guard.Secret, error) {
	return state.ExportKeyingMaterial(exporter, []byte{0, ntpv4, 0, aesSIVCMAC256, direction}, sivKey)
}

// config has no cache of sessions: a ticket would tell that two exchanges are of
// one client.
func (k *Keyer) config(job guard.Keying) *tls.Config {
	c := &tls.Config{ServerName: job.Name, RootCAs: k.Roots, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}}
	if !job.Floor.IsZero() {
		c.InsecureSkipVerify = true // by the library, which would go by the clock
		c.VerifyConnection = func(s tls.ConnectionState) error { return k.verifyAfter(s, job) }
	}
	return c
}

// verifyAfter judges a chain without a clock: as of the earliest time at which all
// of it is valid, or of the floor, whichever comes later.
func (k *Keyer) verifyAfter(s tls.ConnectionState, job guard.Keying) error {
	o := x509.VerifyOptions{DNSName: job.Name, Roots: k.Roots, Intermediates: x509.NewCertPool(), CurrentTime: job.Floor}
	for i, c := range s.PeerCertificates {
		if c.NotBefore.After(o.CurrentTime) {
			o.CurrentTime = c.NotBefore
		}
		if i > 0 {
			o.Intermediates.AddCert(c)
		}
	}
	_, err := s.PeerCertificates[0].Verify(o)
	return err
}

// dial connects from an address and port.
func dial(ctx context.Context, job guard.Keying) (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(job.From), KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) error { return prepare(raw, job.Device) }}
	c, err := d.DialContext(ctx, "tcp", job.To.String())
	if err != nil {
		return nil, fmt.Errorf("connect from %s: %w", job.From, err)
	}
	return c.(*net.TCPConn), nil
}

func prepare(raw syscall.RawConn, device string) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		if device != "" {
			err = os.NewSyscallError("setsockopt SO_BINDTODEVICE", unix.BindToDevice(int(fd), device))
		}
		err = errors.Join(err,
			os.NewSyscallError("setsockopt TCP_MAXSEG", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)),
			os.NewSyscallError("setsockopt TCP_USER_TIMEOUT", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(giveUp.Milliseconds()))))
	}); e != nil {
		return e
	}
	return err
}

// bounded is a connection of which no more than so many bytes are read.
type bounded struct {
	net.Conn
	left int
}

var errTooMuch = fmt.Errorf("the server sent more than %d bytes", maxRead)

func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errTooMuch
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// plain makes of an error what an admin wants to read: of bounded length, since a
// certificate may hold any text.
func plain(ctx context.Context, err error) error {
	var op *net.OpError
	var unfit x509.CertificateInvalidError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return errors.New("the server was too slow")
	case errors.Is(err, io.EOF):
		return errors.New("the server ended the connection")
	case errors.As(err, &unfit) && unfit.Reason == x509.Expired:
		return errors.New(printable(err.Error()) + " (or the host's clock is wrong)")
	case errors.As(err, &op):
		return op.Err
	}
	return errors.New(printable(err.Error()))
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s[:min(len(s), 200)])
}
