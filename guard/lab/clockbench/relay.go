package clockbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// relay is the servers of a world and the ways to them. They stand in the
// router, each with an address in a network of its own.
type relay struct {
	Profile
	seed  uint64
	truth *trajectory
	busy  *busy
	host  netip.Addr
	addrs []netip.AddrPort
	conns []*net.UDPConn
	tasks sync.WaitGroup

	mu    sync.Mutex
	asked map[string][]time.Duration // when, since the start, by client
	call  time.Duration              // that sends: a quick one takes so long
}

// open puts the servers up. They end with close.
func (r *relay) open(l *lab.Lab) error {
	r.host, r.asked, r.call = l.Host.Addr6, map[string][]time.Duration{}, 20*time.Microsecond
	for i := range Servers {
		at := netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8:1%02d::123", i+1)), 123)
		conn, err := listen(l.Router, at)
		if err != nil {
			return fmt.Errorf("put server %s up: %w", at, err)
		}
		r.addrs, r.conns = append(r.addrs, at), append(r.conns, conn)
		s := &server{relay: r, number: i, addr: at, conn: conn, ways: map[string]*way{}, bias: r.bias(i)}
		r.tasks.Add(1)
		go s.serve()
	}
	return nil
}

func (r *relay) close() {
	for _, c := range r.conns {
		c.Close()
	}
	r.tasks.Wait()
}

// bias is the constant error of a server.
func (r *relay) bias(i int) time.Duration {
	rnd := rand.New(rand.NewPCG(r.seed, uint64(100+i)))
	bias := time.Duration(rnd.NormFloat64() * float64(r.Bias))
	if i == Servers-1 {
		bias += r.Lie
	}
	return bias
}

// listen opens a server's socket, which knows when the kernel received what it
// reads. Its address is a local route: that holds at once, and a new address of
// loopback only some time later.
func listen(n *lab.Node, at netip.AddrPort) (conn *net.UDPConn, err error) {
	lo, err := n.Netlink().LinkByName("lo")
	if err != nil {
		return nil, err
	}
	to := &net.IPNet{IP: at.Addr().AsSlice(), Mask: net.CIDRMask(128, 128)}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: to, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL}
	if err := n.Netlink().RouteAdd(route); err != nil {
		return nil, err
	}
	err = n.Do(func() error {
		lc := net.ListenConfig{Control: options}
		c, err := lc.ListenPacket(context.Background(), "udp", at.String())
		if err == nil {
			conn = c.(*net.UDPConn)
		}
		return err
	})
	return conn, err
}

func options(_, _ string, raw syscall.RawConn) (err error) {
	failed := raw.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
	})
	return errors.Join(failed, err)
}

// server is one of them. Its loop alone touches its ways.
type server struct {
	*relay
	number int
	addr   netip.AddrPort
	conn   *net.UDPConn
	bias   time.Duration
	ways   map[string]*way // by client
}

func (s *server) serve() {
	defer s.tasks.Done()
	b, oob := make([]byte, 2048), make([]byte, 128)
	for {
		n, on, _, from, err := s.conn.ReadMsgUDPAddrPort(b, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if q, ok := lab.ParseNTP(b[:n]); err == nil && ok && q.Mode == 3 {
			s.take(q, from, received(oob[:on]))
		}
	}
}

// received is the kernel's receive timestamp.
func received(oob []byte) time.Time {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS_NEW && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// take answers a query. It was received when it arrived here and had then made
// the way there; the answer leaves when it has made the way back.
func (s *server) take(q lab.NTP, from netip.AddrPort, arrived time.Time) {
	since := arrived.Sub(s.truth.began.Round(0))
	t := s.way(s.client(q, from, since)).draw(since, from.Addr(), s.addr.Addr())
	if t.lost || t.lostBack {
		return
	}
	arrived = arrived.Add(t.there)
	p := s.answer(q, s.truth.tell(arrived, s.bias))
	time.AfterFunc(time.Until(arrived.Add(t.back)), func() { s.send(p, from, t.back) })
}

// send stamps an answer and sends it. Between the stamp and the packet's arrival
// in the other namespace lie some 17 µs of system call, which would be in every offset:
// they are foretold, from the quicker ones of the calls before (their lower quartile is
// followed; most of a slow one is not the way).
func (s *server) send(p lab.NTP, to netip.AddrPort, back time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	began := time.Now()
	p.Transmit = lab.NTPTime(s.truth.tell(began.Add(s.call*4/5-back), s.bias))
	_, _ = s.conn.WriteToUDPAddrPort(p.Bytes(), to) // nobody there any more: as on the internet
	const step = 100 * time.Nanosecond
	if time.Since(began) > s.call {
		s.call += step
	} else {
		s.call -= 3 * step
	}
}

// answer is what a good server of stratum 2 says, but for when.
func (s *server) answer(q lab.NTP, received time.Time) lab.NTP {
	return lab.NTP{
		Version: q.Version, Mode: 4, Stratum: 2, Poll: q.Poll, Precision: -23,
		RootDelay: 0x40, RootDispersion: 0x80, // 1 and 2 ms
		RefID: [4]byte{127, 0, 0, byte(10 + s.number)}, Origin: q.Transmit,
		Reference: lab.NTPTime(received.Add(-7 * time.Second)), Receive: lab.NTPTime(received),
	}
}

// client tells who asks, and counts. A query of ntpveil's says nothing of its
// poll interval, and chronyd's does.
func (s *server) client(q lab.NTP, from netip.AddrPort, since time.Duration) string {
	who := "ntpveil"
	switch {
	case from.Addr() == s.host && from.Port() >= rawPort && from.Port() < rawPort+Servers:
		who = "raw"
	case q.Poll != 0:
		who = "chronyd"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[who] = append(s.asked[who], since)
	return who
}

// way is the one of a client to this server. Each draws on its own, so that what
// befalls one does not depend on how often another asks.
func (s *server) way(client string) *way {
	w := s.ways[client]
	if w == nil {
		rnd := rand.New(rand.NewPCG(s.seed, uint64(client[0])<<8+uint64(s.number)))
		w = &way{Profile: s.Profile, rnd: rnd, seed: s.seed, busy: s.busy}
		s.ways[client] = w
	}
	return w
}

// exchanges are when queries came, by client.
func (r *relay) exchanges() map[string][]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.asked)
}
