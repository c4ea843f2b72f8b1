package nts

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"ntpveil/guard"
)

const (
	uniqueLen = 32
	nonceLen  = 16
	roomy     = 1232 // what fits into an IPv6 packet of 1280 bytes
)

// Protection is that of one query and its answer.
type Protection struct {
	unique   [uniqueLen]byte
	cookie   guard.Secret
	want     int
	toServer *siv
	toClient *siv
}

// Protect prepares the protection of one query. Its cookie must never have been
// used before.
func Protect(n guard.NTS) (*Protection, error) {
	p := &Protection{cookie: n.Cookie, want: min(max(n.Want, 1), maxCookies)}
	if n.Keys.AEAD != aesSIVCMAC256 || !usableCookie(n.Cookie) {
		return nil, errors.New("protect query: no such algorithm, or no usable cookie")
	}
	var err error
	if p.toServer, err = newSIV(n.Keys.ToServer); err != nil {
		return nil, fmt.Errorf("protect query: %w", err)
	}
	if p.toClient, err = newSIV(n.Keys.ToClient); err != nil {
		return nil, fmt.Errorf("protect query: %w", err)
	}
	_, _ = rand.Read(p.unique[:]) // never fails (crypto/rand)
	return p, nil
}

// Seal makes the whole request of an NTP header (section 5.7): identifier, cookie,
// a placeholder for every further cookie that is wanted and fits, authenticator.
func (p *Protection) Seal(header []byte) []byte {
	b := append([]byte(nil), header...)
	b = appendField(b, uniqueField, p.unique[:])
	b = appendField(b, cookieField, p.cookie)
	authenticator := fieldHeader + 4 + nonceLen + blockSize
	for i := 1; i < p.want && len(b)+fieldHeader+len(p.cookie)+authenticator <= roomy; i++ {
		b = appendField(b, placeholderField, make([]byte, len(p.cookie)))
	}
	var nonce [nonceLen]byte
	_, _ = rand.Read(nonce[:])
	sealed := p.toServer.seal(nil, b, nonce[:])
	body := binary.BigEndian.AppendUint16(nil, nonceLen)
	body = binary.BigEndian.AppendUint16(body, uint16(len(sealed)))
	body = append(body, nonce[:]...)
	return appendField(b, authenticatorField, append(body, sealed...))
}

// Open judges a datagram. ok: it is the server's answer to this very query, and
// cookies are what came with it. nak: it is not, and says that the server does not
// accept the cookie (section 5.7); whoever saw the query can have made it.
func (p *Protection) Open(b []byte) (cookies []guard.Secret, nak, ok bool) {
	o, err := readOuter(b)
	if err != nil || subtle.ConstantTimeCompare(o.unique, p.unique[:]) != 1 {
		return nil, false, false
	}
	if o.auth == nil {
		return nil, b[1] == 0 && string(b[12:16]) == "NTSN", false
	}
	nonce, sealed, err := split(o.auth)
	if err != nil {
		return nil, false, false
	}
	inner, err := p.toClient.open(sealed, b[:o.signed], nonce)
	if err != nil {
		return nil, false, false
	}
	cookies, err = cookiesOf(inner, p.want)
	return cookies, false, err == nil
}
