package lab

import (
	"encoding/binary"
	"time"
)

// NTP is the fixed part of an NTP packet (RFC 5905 section 7.3), as on the wire.
type NTP struct {
	Leap, Version, Mode, Stratum uint8
	Poll, Precision              int8
	RootDelay, RootDispersion    uint32 // 16.16 s
	RefID                        [4]byte
	Reference, Origin            uint64 // 32.32 s since 1900, as the other two
	Receive, Transmit            uint64
}

// ParseNTP reads the first 48 bytes; ok is false where there are fewer.
func ParseNTP(b []byte) (p NTP, ok bool) {
	if len(b) < 48 {
		return p, false
	}
	be := binary.BigEndian
	p = NTP{
		Leap: b[0] >> 6, Version: b[0] >> 3 & 7, Mode: b[0] & 7, Stratum: b[1], Poll: int8(b[2]), Precision: int8(b[3]),
		RootDelay: be.Uint32(b[4:]), RootDispersion: be.Uint32(b[8:]), RefID: [4]byte(b[12:16]),
		Reference: be.Uint64(b[16:]), Origin: be.Uint64(b[24:]), Receive: be.Uint64(b[32:]), Transmit: be.Uint64(b[40:]),
	}
	return p, true
}

// Bytes are the 48 bytes of the packet.
func (p NTP) Bytes() []byte {
	be := binary.BigEndian
	b := []byte{p.Leap<<6 | p.Version&7<<3 | p.Mode&7, p.Stratum, byte(p.Poll), byte(p.Precision)}
	b = be.AppendUint32(b, p.RootDelay)
	b = be.AppendUint32(b, p.RootDispersion)
	b = append(b, p.RefID[:]...)
	for _, t := range []uint64{p.Reference, p.Origin, p.Receive, p.Transmit} {
		b = be.AppendUint64(b, t)
	}
	return b
}

// NTPTime is a time as in the packet; the era is left out (RFC 5905 section 6).
func NTPTime(t time.Time) uint64 {
	const to1970 = 2208988800
	seconds := uint64(t.Unix()+to1970) << 32
	return seconds | uint64(t.Nanosecond())<<32/1_000_000_000
}
