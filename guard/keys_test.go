package guard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ntpveil/guard/selection"
)

// keyedHost gives a host of time.nts its place.
func (g *Guard) keyedHost(name string, at ...string) *server {
	o := &source{name: name, port: 4460, known: true, ring: &keyring{host: name, port: 4460}}
	for _, a := range at {
		o.answers = append(o.answers, addr(a))
	}
	g.conf.NTS = append(g.conf.NTS, Server{Host: name, Port: 4460})
	g.sources = append(g.sources, o)
	g.seatKeyed(o)
	return g.servers[len(g.servers)-1]
}

// exchangeKeys is a key exchange that ended well, and named somebody; empty: the host itself.
func (g *Guard) exchangeKeys(s *server, named string) {
	q := &query{srv: s, to: s.nts.at, keys: true, ask: g.key(), place: g.network.place()}
	g.queries = append(g.queries, q)
	cookies := make([]Secret, wholePool)
	for i := range cookies {
		cookies[i] = fmt.Appendf(nil, "%s %d %d", s.name, q.ask, i)
	}
	g.keyed(Keyed{Key: q.ask, Cookies: cookies, Host: named, Port: 123,
		Keys: NTSKeys{NotBefore: g.now.Wall.AddDate(0, -1, 0), NotAfter: g.now.Wall.AddDate(0, 1, 0)}})
}

// answers ends an exchange with a server.
func (g *Guard) answers(s *server, ev Answered) {
	q := &query{srv: s, to: s.addr, ask: g.key(), place: g.network.place()}
	if s.nts != nil && s.nts.ready() {
		q.nts, q.cookie = g.spendCookie(s)
	}
	s.asked, s.reach = s.asked+1, s.reach<<1
	g.queries = append(g.queries, q)
	ev.Key = q.ask
	if ev.Err == nil && ev.Kiss == "" {
		ev.Sample = selection.Sample{Server: q.to, At: g.now.Mono, Delay: time.Millisecond, Dispersion: time.Microsecond, Stratum: 1}
	}
	g.answered(ev)
}

var errSilent = errors.New("no answer")

// TestNoHostTakesTheServerOfAnother: a host that names the server of another one,
// without its keys being of any use there, keeps nobody's keys from us.
func TestNoHostTakesTheServerOfAnother(t *testing.T) {
	g := at()
	honest, hostile := g.keyedHost("honest.example", "2001:db8:a::1"), g.keyedHost("hostile.example", "2001:db8:b::1")
	g.exchangeKeys(hostile, "2001:db8:f::1")
	g.exchangeKeys(honest, "2001:db8:f::1")
	if !honest.nts.ready() {
		t.Fatalf("another host's word is enough to do without it: %s", g.whyNoKeys(honest))
	}
	g.answers(honest, Answered{})
	g.answers(hostile, Answered{Err: errSilent})
	if hostile.nts.ready() || !strings.Contains(hostile.nts.why, "stands for honest.example:4460 already") || !honest.nts.ready() {
		t.Errorf("hostile: %q, honest: %q", hostile.nts.why, honest.nts.why)
	}
	g.exchangeKeys(hostile, "2001:db8:f::1")
	if hostile.nts.ready() || !honest.fresh {
		t.Errorf("it stands beside the one that answers")
	}
}

// TestOneMachineHasOneVote: where two hosts of time.nts lead to the same address,
// at whatever port, or it is asked without protection, too.
func TestOneMachineHasOneVote(t *testing.T) {
	g := at()
	one, two := g.keyedHost("one.example", "2001:db8:a::1"), g.keyedHost("two.example", "2001:db8:b::1")
	three := g.keyedHost("three.example", "2001:db8:c::1")
	plain := poolServer("2001:db8:a::1")
	plain.pool = ""
	other := poolServer("2001:db8:d::1")
	g.servers = append(g.servers, plain, other)
	for s, named := range map[*server]string{one: "", two: "2001:db8:a::1", three: ""} {
		g.exchangeKeys(s, named)
	}
	two.addr = netip.AddrPortFrom(two.addr.Addr(), 124)
	for _, s := range []*server{one, two, three, plain, other} {
		g.answers(s, Answered{})
	}
	if two.fresh || two.nts.ready() {
		t.Errorf("two hosts of one address both answer: %q", two.failed)
	}
	g.judge()
	for s, want := range map[*server]bool{one: true, two: false, three: true, plain: false, other: true} {
		if s.judged != want {
			t.Errorf("%s (%s) has a vote: %t", s.addr, s.name, s.judged)
		}
	}
	if _, reason := g.serverState(plain); !strings.Contains(reason, "one.example") {
		t.Errorf("the one without a vote: %q", reason)
	}
	plain.fresh, plain.failed = true, ""
	g.judge()
	if !plain.judged {
		t.Error("nor has it one where the host does not answer")
	}
}

// TestThePoolMakesRoomForHosts: a pool's server out of the block that a host of
// time.nts leads to, and answers from, gives its place away.
func TestThePoolMakesRoomForHosts(t *testing.T) {
	g := at()
	host, near, far := g.keyedHost("one.example", "2001:db8:a::1"), poolServer("2001:db8:b::2"), poolServer("2001:db8:c::2")
	g.exchangeKeys(host, "2001:db8:b::1")
	if near.lost(g) != "" {
		t.Error("a host's word alone drives it out")
	}
	g.answers(host, Answered{})
	if near.lost(g) == "" || far.lost(g) != "" {
		t.Errorf("near: %q, far: %q", near.lost(g), far.lost(g))
	}
}

// TestADenialIsOfAnAddress: who asked not to be asked is not asked through another
// key exchange, nor through one after a restart.
func TestADenialIsOfAnAddress(t *testing.T) {
	g := at()
	s := g.keyedHost("one.example", "2001:db8:a::1", "2001:db8:b::1")
	g.exchangeKeys(s, "2001:db8:f::1")
	g.answers(s, Answered{Kiss: "DENY"})
	if !g.nextAnswer(s, "denied") || s.chosen {
		t.Fatal("it keeps its place")
	}
	g.seatKeyed(g.sources[0])
	again := g.servers[len(g.servers)-1]
	g.exchangeKeys(again, "2001:db8:f::1")
	if again == s || again.addr != s.addr || again.denied <= g.now.Mono {
		t.Errorf("%s is asked again %s before the end of its denial", again.addr, s.denied-g.now.Mono)
	}
	r := at()
	r.restoreServer(ServerRecord{Addr: s.addr, DeniedUntil: r.now.Wall.Add(time.Hour)})
	s = r.keyedHost("one.example", "2001:db8:a::1")
	if r.exchangeKeys(s, "2001:db8:f::1"); s.denied != r.now.Mono+time.Hour {
		t.Errorf("after a restart it is denied until %s", s.denied)
	}
}

// TestAHostThatMoved is looked up anew, and found where it is now, be it that its
// keys are of the run before.
func TestAHostThatMoved(t *testing.T) {
	g := at()
	s := g.keyedHost("one.example", "2001:db8:a::1")
	o := g.sources[0]
	g.exchangeKeys(s, "")
	s.nts.cookies = nil
	g.keysFailed(s, "too slow")
	if !o.want {
		t.Fatal("its name is not looked up again")
	}
	o.want, o.job = false, g.key()
	g.resolved(Resolved{Key: o.job, Addrs: []netip.Addr{addr("2001:db8:b::1")}})
	g.keysFailed(s, "too slow")
	if s.nts.at.Addr() != addr("2001:db8:b::1") || s.addr.Addr() != s.nts.at.Addr() {
		t.Errorf("keys are to be exchanged at %s, it is asked at %s", s.nts.at, s.addr)
	}
	if o.next < g.now.Mono+reresolve {
		t.Error("it is looked up more than once an hour")
	}
}

// TestAServerThatMoved: so is one that is asked without protection.
func TestAServerThatMoved(t *testing.T) {
	g := at()
	g.sources = []*source{{name: "one.example", port: 123, known: true, answers: []netip.Addr{addr("2001:db8:a::1")}}}
	g.network.source6 = g.host.Source6
	g.choose()
	s, o := g.servers[0], g.sources[0]
	s.asked = reachLost
	g.choose()
	if !o.want || !s.chosen {
		t.Fatalf("its name is looked up again: %t, it has its place: %t", o.want, s.chosen)
	}
	if g.choose() {
		t.Error("nothing changed")
	}
	o.want, o.job = false, g.key()
	g.resolved(Resolved{Key: o.job, Addrs: []netip.Addr{addr("2001:db8:b::1")}})
	g.choose()
	g.choose()
	if all := g.chosenOnes(); len(all) != 1 || all[0].addr != netip.MustParseAddrPort("[2001:db8:b::1]:123") {
		t.Errorf("it is asked at %s", all[0].addr)
	}
}

// TestAHostOfTheOwnNetwork: who is written as a private address may be asked there,
// and may not send us to another one.
func TestAHostOfTheOwnNetwork(t *testing.T) {
	g := at()
	s := g.keyedHost("10.0.0.1", "10.0.0.1")
	if g.exchangeKeys(s, ""); !s.nts.ready() {
		t.Errorf("%s", s.nts.why)
	}
	if g.exchangeKeys(s, "10.0.0.2"); s.nts.ready() || !strings.Contains(s.nts.why, "private") {
		t.Errorf("%q", s.nts.why)
	}
}

// TestAStepKeepsTheBucketsOfHosts: the ledger has the buckets of key exchanges by
// the clock as it is then.
func TestAStepKeepsTheBucketsOfHosts(t *testing.T) {
	g := at()
	s := g.keyedHost("one.example", "2001:db8:a::1")
	g.exchangeKeys(s, "2001:db8:f::1")
	g.spendAt(s.nts)
	g.ledger.records = nil
	g.recordBuckets()
	if !slices.ContainsFunc(g.ledger.records, func(r Record) bool { return r.Server != nil && r.Server.Addr == s.nts.at && r.Server.Tokens == 3 }) {
		t.Errorf("%+v", g.ledger.records)
	}
}

// TestNobodyStandsInForHosts: whoever keeps the answers of every host of time.nts
// from us, and makes those of all others, moves nothing.
func TestNobodyStandsInForHosts(t *testing.T) {
	g := at()
	s := g.keyedHost("one.example", "2001:db8:a::1")
	g.exchangeKeys(s, "")
	vote := func(hosts ...*server) selection.Result {
		for _, o := range append(hosts, g.servers[1:]...) {
			g.answers(o, Answered{})
		}
		return g.judge()
	}
	for _, a := range []string{"2001:db8:b::1", "2001:db8:c::1", "2001:db8:d::1"} {
		g.servers = append(g.servers, poolServer(a))
	}
	if res := vote(); res.Agreed || !strings.Contains(res.Reason, "time.nts") || g.clock.lastAgreed != 0 {
		t.Errorf("%+v", res)
	}
	if res := vote(s); !res.Agreed {
		t.Errorf("with the host: %+v", res)
	}
}

// TestAHostThatComesBack: of a host that the configuration no longer names it is
// remembered which cookies were used.
func TestAHostThatComesBack(t *testing.T) {
	g := at()
	s := g.keyedHost("time.example", "2001:db8:a::1")
	g.exchangeKeys(s, "")
	used, _ := g.spendCookie(s)
	with := g.conf
	without := with
	without.NTS = nil
	g.configure(without)
	g.configure(with)
	ring := g.sources[len(g.sources)-1].ring
	g.restoreKeys(ring)
	ring.stock([]Secret{used.Cookie, Secret("another")})
	if ring == s.nts || len(ring.cookies) != 1 || string(ring.cookies[0]) != "another" {
		t.Errorf("a cookie that was used is taken again: %d", len(ring.cookies))
	}
}

// TestACancelledExchangeLingers: what was on its way when it was given up is no
// probe, and our reset of a connection has yet to leave.
func TestACancelledExchangeLingers(t *testing.T) {
	g := at()
	s := g.keyedHost("one.example", "2001:db8:a::1")
	for _, keys := range []bool{false, true} {
		g.queries = []*query{{srv: s, to: s.addr, keys: keys, ask: g.key(), latest: g.now.Mono + exchange,
			house: &address{addr: g.interfaceID(), kind: "throw-away", phase: held}}}
		g.cancelQueries(s, "it is no longer configured")
		g.advanceQueries()
		if len(g.planSolicited()) != 1 || len(g.planAsks())+len(g.planKeyings()) != 0 {
			t.Errorf("keys %t: its tuple is closed before its packets are gone", keys)
		}
		g.now.Mono += lingerFor
		g.advanceQueries()
		if len(g.planSolicited()) != 0 {
			t.Errorf("keys %t: its tuple stays", keys)
		}
		q := &query{srv: s, to: s.addr, keys: keys, latest: g.now.Mono + exchange}
		g.queries = []*query{q}
		g.fail(q, "it never left")
		if g.advanceQueries(); len(g.queries) != 0 {
			t.Errorf("keys %t: what never left lingers", keys)
		}
	}
}
