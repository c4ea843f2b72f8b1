package lab

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Answer makes the datagrams that a server sends for a query, in order. It is
// called after the hook; a server with two addresses may call it twice at once.
type Answer func(q Query) []Reply

// Reply is one datagram.
type Reply struct {
	Data  []byte
	After time.Duration // how long after the query it leaves; zero: at once
}

// Honest answers with the right time.
func Honest() Answer { return Offset(0) }

// Offset answers as a server whose clock is ahead by this much.
func Offset(by time.Duration) Answer { return offset(by, func(*NTP) {}) }

// Fields answers with the right time, but for what edit changes.
func Fields(edit func(*NTP)) Answer { return offset(0, edit) }

func offset(by time.Duration, edit func(*NTP)) Answer {
	return func(q Query) []Reply {
		p := answering(q, by)
		edit(&p)
		return []Reply{{Data: p.Bytes()}}
	}
}

// answering is what a good server of stratum 2 says.
func answering(q Query, by time.Duration) NTP {
	p := NTP{
		Version: q.NTP.Version, Mode: 4, Stratum: 2, Poll: q.NTP.Poll, Precision: -23,
		RootDelay: 0x40, RootDispersion: 0x80, // 1 and 2 ms
		RefID: [4]byte{127, 0, 0, 9}, Origin: q.NTP.Transmit,
		Reference: NTPTime(q.At.Add(by - 7*time.Second)), Receive: NTPTime(q.At.Add(by)),
	}
	p.Transmit = NTPTime(time.Now().Add(by))
	return p
}

// Silent answers nothing.
func Silent() Answer { return func(Query) []Reply { return nil } }

// Late is the answer, this much later.
func Late(by time.Duration, a Answer) Answer {
	return func(q Query) []Reply {
		all := a(q)
		for i := range all {
			all[i].After += by
		}
		return all
	}
}

// Kiss answers with a kiss-o'-death (RFC 5905 section 7.4), as in Kiss("RATE").
func Kiss(code string) Answer {
	return Fields(func(p *NTP) {
		p.Leap, p.Stratum = 3, 0
		copy(p.RefID[:], code)
	})
}

// WrongOrigin answers as somebody does who has not seen the query.
func WrongOrigin() Answer { return Fields(func(p *NTP) { p.Origin = ^p.Origin }) }

// Absurd answers with the right origin and mode, and any value everywhere else.
// The seed makes it repeatable.
func Absurd(seed uint64) Answer {
	noise := noise(seed)
	return Fields(func(p *NTP) {
		origin := p.Origin
		*p, _ = ParseNTP(noise(48))
		p.Mode, p.Origin = 4, origin
	})
}

// Garbage answers with datagrams of every awkward length, none of them valid.
func Garbage(seed uint64) Answer {
	noise := noise(seed)
	return func(Query) (all []Reply) {
		for _, n := range []int{0, 1, 47, 48, 49, 68, 512, 1400} {
			all = append(all, Reply{Data: noise(n)})
		}
		return all
	}
}

// Flood sends n datagrams that look right but for their origin, then the answer.
func Flood(n int, then Answer) Answer {
	return func(q Query) []Reply {
		forged := WrongOrigin()(q)[0]
		all := make([]Reply, n, n+1)
		for i := range all {
			all[i] = forged
		}
		return append(all, then(q)...)
	}
}

// noise makes a source of random bytes that several servers may share.
func noise(seed uint64) func(n int) []byte {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 0))
	return func(n int) []byte {
		mu.Lock()
		defer mu.Unlock()
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
}
