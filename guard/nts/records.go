package nts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"ntpveil/guard"
)

// Types of records (RFC 8915 section 4.1).
const (
	endOfMessage = iota
	nextProtocol
	errorRecord
	warningRecord
	aeadAlgorithm
	newCookie
	serverRecord
	portRecord

	critical = 0x8000
)

const (
	ntpv4         = 0
	aesSIVCMAC256 = 15 // AEAD_AES_SIV_CMAC_256, which every server has to know

	maxMessage = 16 << 10 // of a server's records; eight cookies are some 2 KiB
	maxCookies = 8        // RFC 8915 section 5.7
	maxCookie  = 256      // chrony takes no longer ones either
	maxHost    = 253
)

var errorCodes = map[uint16]string{0: "unrecognised critical record", 1: "bad request", 2: "internal server error"}

// request is all that a client says.
func request() []byte {
	var b []byte
	b = appendRecord(b, must(nextProtocol), []byte{0, ntpv4})
	b = appendRecord(b, must(aeadAlgorithm), []byte{0, aesSIVCMAC256})
	return appendRecord(b, must(endOfMessage), nil)
}

// must makes a type critical: whoever does not know it has to give up.
func must(kind uint16) uint16 { return kind | critical }

func appendRecord(b []byte, kind uint16, body []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// agreement is what a server's records say, checked.
type agreement struct {
	cookies []guard.Secret
	host    string
	port    uint16
	seen    map[uint16]bool
}

// readAgreement reads a server's records up to the end of the message.
func readAgreement(from io.Reader) (*agreement, error) {
	r := &io.LimitedReader{R: from, N: maxMessage}
	a := &agreement{seen: map[uint16]bool{}}
	var header [4]byte
	for {
		if err := fill(r, header[:]); err != nil {
			return nil, err
		}
		kind := binary.BigEndian.Uint16(header[:])
		body := make([]byte, min(int(binary.BigEndian.Uint16(header[2:])), maxMessage))
		if err := fill(r, body); err != nil {
			return nil, err
		}
		if kind&^critical == endOfMessage {
			return a, a.whole(kind, body)
		}
		if err := a.take(kind, body); err != nil {
			return nil, err
		}
	}
}

func fill(r *io.LimitedReader, b []byte) error {
	_, err := io.ReadFull(r, b)
	switch {
	case err == nil:
		return nil
	case r.N == 0:
		return fmt.Errorf("more than %d bytes of records", maxMessage)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the server's message has no end")
	}
	return err
}

// take takes one record. What the RFC has once and critical has to be so.
func (a *agreement) take(kind uint16, body []byte) error {
	is := kind &^ critical
	if a.seen[is] && is != newCookie && is <= portRecord {
		return fmt.Errorf("a second record of type %d", is)
	}
	a.seen[is] = is <= portRecord
	if is >= nextProtocol && is <= warningRecord && kind&critical == 0 {
		return fmt.Errorf("a record of type %d that is not critical", is)
	}
	switch is {
	case nextProtocol:
		return single(body, ntpv4, "the server does not offer NTPv4")
	case aeadAlgorithm:
		return single(body, aesSIVCMAC256, "the server does not offer AEAD_AES_SIV_CMAC_256")
	case errorRecord, warningRecord:
		return complaint(is, body)
	case newCookie:
		a.keep(body)
	case serverRecord:
		return a.setHost(string(body))
	case portRecord:
		return a.setPort(body)
	default:
		if kind&critical != 0 {
			return fmt.Errorf("an unknown critical record, of type %d", is)
		}
	}
	return nil
}

// single checks a record that holds the one thing that was asked for.
func single(body []byte, want uint16, otherwise string) error {
	if len(body) != 2 || binary.BigEndian.Uint16(body) != want {
		return errors.New(otherwise)
	}
	return nil
}

// complaint is an error or a warning of the server; no warnings are defined, and
// one that is not known is an error (section 4.1.4).
func complaint(is uint16, body []byte) error {
	if len(body) != 2 {
		return errors.New("an error record of a wrong length")
	}
	code := binary.BigEndian.Uint16(body)
	if is == warningRecord {
		return fmt.Errorf("the server warns of %d, which is not known", code)
	}
	if name := errorCodes[code]; name != "" {
		return fmt.Errorf("the server says: %s", name)
	}
	return fmt.Errorf("the server says: error %d", code)
}

// keep keeps a cookie that fits into an extension field as it is.
func (a *agreement) keep(body []byte) {
	if usableCookie(body) && len(a.cookies) < maxCookies {
		a.cookies = append(a.cookies, body)
	}
}

func usableCookie(b []byte) bool {
	return len(b) >= minField-fieldHeader && len(b) <= maxCookie && len(b)%4 == 0
}

// setHost takes the word on where to ask: an address without a zone, or a name.
func (a *agreement) setHost(host string) error {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		a.host = addr.Unmap().String()
		return nil
	}
	if !isName(host) {
		return errors.New("the server to ask is neither an address nor a name")
	}
	a.host = strings.TrimSuffix(host, ".")
	return nil
}

// isName reports whether a text can be a domain name of two labels at least
// (RFC 1123 section 2.1): no search list is to make another one of it.
func isName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) > maxHost || !strings.Contains(s, ".") {
		return false
	}
	for _, label := range strings.Split(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func (a *agreement) setPort(body []byte) error {
	if len(body) != 2 || binary.BigEndian.Uint16(body) == 0 {
		return errors.New("the port to ask is none")
	}
	a.port = binary.BigEndian.Uint16(body)
	return nil
}

// whole judges the message when its end has come.
func (a *agreement) whole(kind uint16, body []byte) error {
	switch {
	case kind&critical == 0 || len(body) != 0:
		return errors.New("the end of the message is malformed")
	case !a.seen[nextProtocol]:
		return errors.New("the server agreed on no protocol")
	case !a.seen[aeadAlgorithm]:
		return errors.New("the server agreed on no algorithm")
	case len(a.cookies) == 0:
		return errors.New("the server gave no usable cookie")
	}
	if a.port == 0 {
		a.port = 123
	}
	return nil
}
