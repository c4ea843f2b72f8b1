package lab

import "net/netip"

// Harvester is a pool server that answers honestly and passes the address of
// everyone who asks on, before it answers.
type Harvester struct {
	*Server
	Told <-chan netip.AddrPort // what it passed on; the newest is lost where nobody reads
}

func (l *Lab) harvester() (*Harvester, error) {
	n, err := l.static("harvester", harvesterPlace())
	if err != nil {
		return nil, err
	}
	told := make(chan netip.AddrPort, 1024)
	h := &Harvester{Server: newServer(n), Told: told}
	h.tell = func(q Query) {
		select {
		case told <- q.From:
		default:
		}
	}
	return h, h.serve()
}
