package lab

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
)

// Pool is the name that the lab's DNS answers with all pool servers, the
// harvester among them.
const Pool = "2.pool.example"

// Options say what a lab is made of.
type Options struct {
	Servers int  // pool servers besides the harvester
	Radvd   bool // a real radvd advertises, not our own advertiser
	Chronyd bool // the pool servers (not the harvester) are real chronyds; they tell and obey nothing
	// NTS makes these chronyds NTS servers too: it issues their certificates, in PEM
	// (Authority.Issue; the program, whose demo builds labs, is to have none of it).
	NTS func(Certificate) (cert, key []byte, err error)
}

// Lab is a network of namespaces. Its methods, and those of its nodes, may be
// called by several goroutines, except Add and Close.
type Lab struct {
	Host      *Node
	Router    *Node
	DNS       *DNS
	Servers   []*Server // s1, s2 and so on
	Harvester *Harvester
	Scanner   *Node // told by the harvester, in another network
	Visitor   *Node // honest, elsewhere

	advertiser *advertiser
	cables     byte
	extras     int
	done       chan struct{}
	tasks      sync.WaitGroup
	once       sync.Once
	undo       []func() // newest last

	mu       sync.Mutex
	programs map[*Cmd]bool
}

// New builds a lab and returns when the host has its addresses. ErrForbidden:
// the process may not make namespaces; see Enter.
func New(ctx context.Context, o Options) (*Lab, error) {
	if !privileged() {
		return nil, fmt.Errorf("build lab: %w: neither root nor in a user namespace", ErrForbidden)
	}
	l := &Lab{done: make(chan struct{}), programs: map[*Cmd]bool{}}
	if err := l.build(ctx, o); err != nil {
		l.Close()
		return nil, fmt.Errorf("build lab: %w", err)
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context, o Options) (err error) {
	if l.Router, err = l.bare("router"); err != nil {
		return err
	}
	if err = l.routing(); err != nil {
		return err
	}
	if err = l.populate(ctx, o); err != nil {
		return err
	}
	return l.buildHost(ctx, o)
}

// populate builds everything but the host.
func (l *Lab) populate(ctx context.Context, o Options) (err error) {
	if err = l.buildDNS(); err != nil {
		return err
	}
	if l.Harvester, err = l.harvester(); err != nil {
		return err
	}
	for i := 1; i <= o.Servers; i++ {
		if err = l.server(ctx, i, o); err != nil {
			return err
		}
	}
	if l.Scanner, err = l.static("scanner", scannerPlace()); err != nil {
		return err
	}
	l.Visitor, err = l.static("visitor", visitorPlace())
	return err
}

// server builds the pool server with this number and puts it into the pool.
func (l *Lab) server(ctx context.Context, i int, o Options) error {
	n, err := l.static(fmt.Sprintf("s%d", i), serverPlace(i))
	if err != nil {
		return err
	}
	s := newServer(n)
	l.Servers = append(l.Servers, s)
	l.DNS.Set(n.Name+".pool.example", n.Addr6, n.Addr4)
	l.DNS.Set(Pool, l.poolAddrs()...)
	switch {
	case o.NTS != nil:
		_, err = n.chronydNTS(ctx, n.Name+".pool.example", o)
	case o.Chronyd:
		_, err = n.Chronyd(ctx)
	default:
		err = s.serve()
	}
	return err
}

func (l *Lab) poolAddrs() (all []netip.Addr) {
	for _, s := range l.Servers {
		all = append(all, s.Addr6, s.Addr4)
	}
	return append(all, l.Harvester.Addr6, l.Harvester.Addr4)
}

// Server is the pool server with this number, from 1.
func (l *Lab) Server(i int) *Server { return l.Servers[i-1] }

// Add builds one more node, in a /48 (and an IPv4 /24) of its own.
func (l *Lab) Add(name string) (*Node, error) {
	l.extras++
	return l.static(name, extraPlace(l.extras))
}

// Close ends every program, server and capture and gives up the namespaces. It
// may be called twice.
func (l *Lab) Close() {
	l.once.Do(func() {
		close(l.done)
		l.endPrograms()
		for i := len(l.undo) - 1; i >= 0; i-- {
			l.undo[i]()
		}
		l.tasks.Wait()
	})
}

// run starts a task that ends when the lab is closed; stop makes it return.
func (l *Lab) run(task, stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undo = append(l.undo, stop)
	l.tasks.Add(1)
	go func() {
		defer l.tasks.Done()
		task()
	}()
}
