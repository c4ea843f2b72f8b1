package control

import "sync"

// places bounds the connections at a time: each rank has its own, so that nobody
// keeps root out, and each user but root has few of them.
type places struct {
	mu     sync.Mutex
	taken  [root + 1]int
	byUser map[uint32]int
}

var placesOf = [...]int{everyone: 32, group: 16, root: 32}

const placesOfUser = 8

// take reports whether there is a place for a peer; it is given back by leave.
func (p *places) take(who peer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[who.rank] >= placesOf[who.rank] || who.rank != root && p.byUser[who.uid] >= placesOfUser {
		return false
	}
	p.taken[who.rank]++
	p.byUser[who.uid]++
	return true
}

func (p *places) leave(who peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[who.rank]--
	if p.byUser[who.uid]--; p.byUser[who.uid] == 0 {
		delete(p.byUser, who.uid)
	}
}
