package nts

import (
	"encoding/binary"
	"errors"

	"ntpveil/guard"
)

// Types of extension fields (RFC 8915 section 5).
const (
	uniqueField        = 0x0104
	cookieField        = 0x0204
	placeholderField   = 0x0304
	authenticatorField = 0x0404
)

const (
	headerLen   = 48
	fieldHeader = 4
	minField    = 16   // RFC 7822 section 7.5
	longest     = 4096 // of an answer; eight cookies are some 2 KiB
)

var errMalformed = errors.New("the extension fields are malformed")

// field is one extension field: what it says, and where in the packet it began.
type field struct {
	kind  uint16
	start int
	body  []byte
}

// fields walks the extension fields of b from at, until done says so. Every field
// has to have a length that is possible.
func fields(b []byte, at int, take func(field) (done bool, err error)) error {
	for at < len(b) {
		if len(b)-at < minField {
			return errMalformed
		}
		n := int(binary.BigEndian.Uint16(b[at+2:]))
		if n < minField || n%4 != 0 || n > len(b)-at {
			return errMalformed
		}
		done, err := take(field{binary.BigEndian.Uint16(b[at:]), at, b[at+fieldHeader : at+n]})
		if done || err != nil {
			return err
		}
		at += n
	}
	return nil
}

// appendField appends a field; its body is padded with zeros.
func appendField(b []byte, kind uint16, body []byte) []byte {
	n := max(padded(len(body))+fieldHeader, minField)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, body...)
	return append(b, make([]byte, n-fieldHeader-len(body))...)
}

func padded(n int) int { return (n + 3) &^ 3 }

// outer is what stands in an answer in the open.
type outer struct {
	unique []byte
	auth   []byte // the body of the authenticator; nil: there is none
	signed int    // how much of the packet it is over
}

// readOuter reads up to the authenticator: nobody vouches for what is behind it.
func readOuter(b []byte) (o outer, err error) {
	if len(b) < headerLen || len(b) > longest {
		return o, errMalformed
	}
	err = fields(b, headerLen, func(f field) (bool, error) {
		switch f.kind {
		case uniqueField:
			if o.unique != nil {
				return true, errMalformed
			}
			o.unique = f.body
		case authenticatorField:
			o.auth, o.signed = f.body, f.start
			return true, nil
		}
		return false, nil
	})
	return o, err
}

// split takes the body of an authenticator apart (section 5.6). The algorithm
// wants one byte of nonce at least (RFC 5297 section 6.1).
func split(body []byte) (nonce, sealed []byte, err error) {
	if len(body) < 4 {
		return nil, nil, errMalformed
	}
	n, m := int(binary.BigEndian.Uint16(body)), int(binary.BigEndian.Uint16(body[2:]))
	body = body[4:]
	if n == 0 || m < blockSize || padded(n)+padded(m) > len(body) {
		return nil, nil, errMalformed
	}
	return body[:n], body[padded(n):][:m], nil
}

// cookiesOf takes cookies out of decrypted fields, so many at most.
func cookiesOf(b []byte, most int) (out []guard.Secret, err error) {
	err = fields(b, 0, func(f field) (bool, error) {
		if f.kind == cookieField && len(out) < most && usableCookie(f.body) {
			out = append(out, f.body)
		}
		return false, nil
	})
	return out, err
}
