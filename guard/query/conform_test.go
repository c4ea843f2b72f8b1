package query

import (
	"net/netip"
	"testing"

	"ntpveil/guard/guardtest"
	"ntpveil/guard/sysclock"
)

func TestAskerConforms(t *testing.T) {
	guardtest.ConformAsker(t, func(t *testing.T) guardtest.AskerBench {
		return guardtest.AskerBench{
			Asker: &Asker{Now: sysclock.Mono},
			Now:   sysclock.Mono,
			From:  func() netip.AddrPort { return freePort(t) },
			Honest: fakeServer(t, func(req []byte) [][]byte {
				return [][]byte{honest(req, 0)}
			}),
			Kissing: fakeServer(t, func(req []byte) [][]byte {
				return [][]byte{edited(req, func(b []byte) { b[1] = 0; copy(b[atRefID:], "RATE") })}
			}),
			Silent: fakeServer(t, func([]byte) [][]byte { return nil }),
		}
	})
}
