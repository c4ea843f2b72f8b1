package query

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	headerLen = 48   // RFC 5905 section 7.3
	longest   = 1024 // with extension fields and a MAC; nothing that we ask for is longer
	modeReply = 4
)

var (
	errMismatch = errors.New("not an answer to the query")
	errUnsynced = errors.New("the server is not synchronised")
)

// kissError is a kiss-o'-death with our origin.
type kissError string

func (k kissError) Error() string { return "kiss-o'-death " + string(k) }

// check judges one datagram against the transmit timestamp that was sent.
// errMismatch: it is to be ignored. Any other error ends the exchange: the
// server, or somebody who saw the query, means it.
func check(b []byte, nonce [8]byte) error {
	switch {
	case len(b) < headerLen || len(b) > longest || len(b)%4 != 0:
		return errMismatch
	case b[0]&7 != modeReply:
		return errMismatch
	case b[0]>>3&7 < 3 || b[0]>>3&7 > 4:
		return errMismatch
	case [8]byte(b[24:32]) != nonce:
		return errMismatch
	}
	stratum := b[1]
	if stratum == 0 {
		return kissOf(b[12:16])
	}
	receive, transmit := binary.BigEndian.Uint64(b[32:40]), binary.BigEndian.Uint64(b[40:48])
	switch {
	case stratum > 15 || b[0]>>6 == 3:
		return errUnsynced
	case receive == 0 || transmit == 0:
		return fmt.Errorf("check answer: no timestamp in it")
	case int64(transmit-receive) < 0:
		return fmt.Errorf("check answer: it left before it arrived")
	case int64(transmit-receive) > 1<<32: // a second
		return fmt.Errorf("check answer: it was held for more than a second")
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
