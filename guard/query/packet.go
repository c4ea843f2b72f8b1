package query

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Places in the header (RFC 5905 section 7.3).
const (
	headerLen   = 48
	atPrecision = 3
	atRootDelay = 4
	atRootDisp  = 8
	atRefID     = 12
	atReference = 16
	atOrigin    = 24
	atReceive   = 32
	atTransmit  = 40
)

const (
	longest    = 1024             // with extension fields and a MAC; nothing that we ask for is longer
	longestNTS = 4096             // with eight cookies, which are some 2 KiB
	query      = 0x23             // no leap warning, version 4, mode 3
	modeReply  = 4                //
	maxClaimed = 16 * time.Second // RFC 5905, MAXDISP: no time at all from there on
	maxHeld    = time.Second
)

var (
	errMismatch = errors.New("not an answer to the query")
	errUnsynced = errors.New("the server says that it is not synchronised")
)

// kissError is a kiss-o'-death with our origin.
type kissError string

func (k kissError) Error() string { return "kiss-o'-death " + string(k) }

// check judges one datagram against the transmit timestamp that was sent.
// errMismatch: it is to be ignored. Any other error ends the exchange: it came
// from somebody who saw the query, and who could as well have lied about the time.
// The poll field is not looked at, since nothing is ever taken from it (RFC 8633).
func check(b []byte, nonce [8]byte, longest int) error {
	switch {
	case !answers(b, nonce, longest):
		return errMismatch
	case b[1] == 0:
		return kissOf(b[atRefID : atRefID+4])
	case b[1] > 15 || b[0]>>6 == 3:
		return errUnsynced
	}
	if err := checkTimes(b); err != nil {
		return fmt.Errorf("check answer: %w", err)
	}
	if err := checkClaims(b); err != nil {
		return fmt.Errorf("check answer: %w", err)
	}
	return nil
}

// answers reports whether a datagram is an answer to our query, whatever it says.
func answers(b []byte, nonce [8]byte, longest int) bool {
	if len(b) < headerLen || len(b) > longest || len(b)%4 != 0 {
		return false
	}
	mode, version := b[0]&7, b[0]>>3&7
	return mode == modeReply && (version == 3 || version == 4) && [8]byte(b[atOrigin:]) == nonce
}

// checkTimes compares timestamps by their difference, which holds across the end
// of an NTP era (2036) as well.
func checkTimes(b []byte) error {
	reference, receive, transmit := stamp(b, atReference), stamp(b, atReceive), stamp(b, atTransmit)
	switch held := held(b); {
	case receive == 0 || transmit == 0:
		return errors.New("a timestamp is missing")
	case held < 0:
		return errors.New("it left before the query arrived")
	case held > maxHeld:
		return fmt.Errorf("the query was held for more than %s", maxHeld)
	case reference != 0 && int64(transmit-reference) < 0: // 0: unknown
		return errors.New("the server was last set in the future")
	}
	return nil
}

// checkClaims bounds what a server says of its own quality.
func checkClaims(b []byte) error {
	distance := short(b, atRootDelay)/2 + short(b, atRootDisp)
	switch precision := int8(b[atPrecision]); {
	case distance >= maxClaimed:
		return fmt.Errorf("it claims a root distance of %.3f s", distance.Seconds())
	case precision > 0:
		return fmt.Errorf("it claims a precision of 2^%d s", precision)
	}
	return nil
}

// kissOf is the kiss code of a reference identifier (RFC 5905 section 7.4).
func kissOf(id []byte) error {
	for _, c := range id {
		if c < 'A' || c > 'Z' {
			return errUnsynced // stratum 0 without a code
		}
	}
	return kissError(id)
}

func stamp(b []byte, at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }

// held is how long the server says that it had the query, for at most 68 years.
func held(b []byte) time.Duration { return fixed(int64(stamp(b, atTransmit) - stamp(b, atReceive))) }

// fixed is a difference of two timestamps: seconds in the upper half.
func fixed(d int64) time.Duration {
	return time.Duration(d>>32)*time.Second + time.Duration(d&0xffffffff)*time.Second>>32
}

// short is a duration in NTP's short format: 16 bits of seconds, 16 of fraction.
func short(b []byte, at int) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b[at:])) * time.Second >> 16
}
