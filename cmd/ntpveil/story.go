package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/control"
	"ntpveil/guard/lab"
	"ntpveil/guard/nft"
	"ntpveil/guard/sysclock"
	"ntpveil/rules"
)

// story is one run of the demo. What it claims it has measured.
type story struct {
	ctx    context.Context
	out    io.Writer
	lab    *lab.Lab
	dir    string
	table  *nft.Shield
	began  time.Time
	claims int
	failed int

	mu       sync.Mutex
	arrivals map[string]arrival // by server
}

// arrival is what a server saw when a query reached it, and what the host's
// kernel enforced at that moment, before the answer.
type arrival struct {
	from    netip.AddrPort
	guarded bool
}

// services are what there is to be found on the host.
var services = []uint16{22, 80, 8080}

// allowed is the service that stays reachable from a closed neighbourhood.
const allowed = 22

func tell(ctx context.Context, out io.Writer) error {
	s := &story{ctx: ctx, out: out, began: time.Now(), arrivals: map[string]arrival{}}
	dir, err := os.MkdirTemp("", "ntpveil-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	s.dir = dir
	defer os.RemoveAll(dir)
	for _, part := range []func() error{s.build, s.without, s.with} {
		if err := part(); err != nil {
			s.close()
			return fmt.Errorf("demo: %w", err)
		}
	}
	s.close()
	s.say("\n%d claims, %d did not come true, %.1f s.", s.claims, s.failed, time.Since(s.began).Seconds())
	if s.failed > 0 {
		return errors.New("demo: not everything came true")
	}
	return nil
}

func (s *story) close() {
	if s.table != nil {
		_ = s.table.Close()
	}
	if s.lab != nil {
		s.lab.Close()
	}
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// claim prints what was measured, and whether it is as it should be.
func (s *story) claim(ok bool, format string, args ...any) {
	s.claims++
	mark := "  ok   "
	if !ok {
		mark = "  FALSE"
		s.failed++
	}
	s.say("%s %5.1f s  %s", mark, time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) build() error {
	l, err := lab.New(s.ctx, lab.Options{Servers: 4})
	if err != nil {
		return err
	}
	s.lab = l
	if err := l.Host.Serve(services, nil); err != nil {
		return err
	}
	if s.table, err = nft.Open(l.Host.FD()); err != nil {
		return err
	}
	s.say("A network in namespaces: host %s, router, DNS, %d time servers,", l.Host.Addr6, len(l.Servers))
	s.say("a harvester %s among them, and a scanner %s elsewhere.", l.Harvester.Addr6, l.Scanner.Addr6)
	s.say("The host has services on TCP ports %v.", services)
	return nil
}

// without is 2016: a plain client asks, and is scanned.
func (s *story) without() error {
	s.say("\nWithout the guard: a plain client asks the harvester for the time.")
	out, err := s.self("query", "--json", s.lab.Harvester.Addr6.String()).Output()
	if err != nil {
		return fmt.Errorf("query without the guard: %w", err)
	}
	var answers []answerLine
	if err := json.Unmarshal(out, &answers); err != nil {
		return fmt.Errorf("query without the guard: %w", err)
	}
	if len(answers) != 1 || answers[0].Answer == nil {
		return fmt.Errorf("query without the guard: no figures in %s", out)
	}
	s.claim(answers[0].Failed == "", "the answer came, offset %+.6f s", answers[0].Offset)
	told, err := s.told()
	if err != nil {
		return err
	}
	s.claim(told == s.lab.Host.Addr6, "the harvester passes on %s: the host's stable address", told)
	report, err := s.scan(s.lab.Scanner, told)
	if err != nil {
		return err
	}
	s.claim(len(report.In(lab.Open)) > 0, "the scanner tries it at once and finds open: %v", report.In(lab.Open))
	return nil
}

// with is the same with ntpveil: the daemon itself, as it is installed.
func (s *story) with() error {
	s.say("\nWith the guard: ntpveil daemon on the same host, asking the pool.")
	for _, srv := range append(slices.Clone(s.lab.Servers), s.lab.Harvester.Server) {
		srv.OnArrival(func(q lab.Query) { s.arrived(srv.Name, q) })
	}
	daemon, log, err := s.start()
	if err != nil {
		return err
	}
	defer func() { _ = daemon.Stop(context.Background()) }()
	status, err := s.synced(log)
	if err != nil {
		return err
	}
	s.claim(status.Synchronized, "%d servers agree: offset %+.6f s, root distance %.6f s", count(status, "selected"), status.Clock.Offset, status.Clock.RootDistance)
	s.sources()
	if err := s.rescan(); err != nil {
		return err
	}
	if err := s.doors(status); err != nil {
		return err
	}
	return s.stop(daemon)
}

// arrived runs in the server, before it answers.
func (s *story) arrived(server string, q lab.Query) {
	seen, err := s.table.Seen(sysclock.Mono())
	a := arrival{from: q.From}
	a.guarded = err == nil && seen.Mode != rules.Off && slices.ContainsFunc(seen.Exposed, func(x rules.Exposed) bool {
		return x.Addr == q.From.Addr() && x.Until > sysclock.Mono()
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals[server] = a
}

func (s *story) start() (*lab.Cmd, *bytes.Buffer, error) {
	config := fmt.Sprintf("[time]\npools = [%q]\nuse = 5\n[shield]\nallow = [\"tcp/%d\"]\n[ledger]\npath = %q\n[control]\nsocket = %q\n",
		lab.Pool, allowed, filepath.Join(s.dir, "ledger.db"), s.socket())
	path := filepath.Join(s.dir, "ntpveil.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, nil, err
	}
	log := &bytes.Buffer{}
	daemon := s.self("--config", path, "daemon", "--observe-clock")
	daemon.Stderr = log
	if err := daemon.Start(); err != nil {
		return nil, nil, fmt.Errorf("start daemon: %w", err)
	}
	return daemon, log, nil
}

func (s *story) socket() string { return filepath.Join(s.dir, "control.sock") }

// synced waits for the daemon's first sync, telling how far it is.
func (s *story) synced(log *bytes.Buffer) (*guard.Status, error) {
	last := ""
	for {
		status, err := control.Call(s.ctx, s.socket(), control.Request{Verb: "waitsync", For: "500ms"})
		if err == nil {
			return status, nil
		}
		if now := err.Error(); status != nil && now != last {
			last = now
			s.say("         %5.1f s  shield %s, %d servers chosen, %d exposures", time.Since(s.began).Seconds(), status.Shield.State, len(status.Servers), status.ExposureCount)
		}
		if status == nil && !errors.Is(err, control.ErrNotRunning) {
			return nil, fmt.Errorf("%w\n%s", err, log)
		}
		select {
		case <-s.ctx.Done():
			return nil, fmt.Errorf("no sync in time: %w\n%s", err, log)
		case <-time.After(20 * time.Millisecond): // until the daemon listens there is nothing to wait on
		}
	}
}

func count(s *guard.Status, state string) int {
	n := 0
	for _, x := range s.Servers {
		if x.State == state {
			n++
		}
	}
	return n
}

// sources claims what the servers saw.
func (s *story) sources() {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[netip.Addr]bool{}
	stable, bare := 0, 0
	for _, name := range slices.Sorted(maps.Keys(s.arrivals)) {
		a := s.arrivals[name]
		seen[a.from.Addr()] = true
		if a.from.Addr() == s.lab.Host.Addr6 {
			stable++
		}
		if !a.guarded {
			bare++
		}
		s.say("           %-10s was asked from %s", name, a.from)
	}
	s.claim(len(seen) == len(s.arrivals) && len(seen) > 3, "%d servers were asked, each saw another address", len(s.arrivals))
	s.claim(stable == 0, "%d of them saw the stable address", stable)
	s.claim(bare == 0, "%d queries reached a server before the rules for their address were in force", bare)
}

// rescan has the scanner and the harvester try the address that was passed on.
func (s *story) rescan() error {
	told, err := s.told()
	if err != nil {
		return err
	}
	s.claim(told != s.lab.Host.Addr6, "the harvester passes on %s: a throw-away address", told)
	for _, from := range []*lab.Node{s.lab.Scanner, s.lab.Harvester.Node} {
		report, err := s.scan(from, told)
		if err != nil {
			return err
		}
		s.claim(report.Quiet(), "the %s tries it: %d probes, %d answered, %d packets came back", from.Name, len(report.Found), len(report.Found)-len(report.In(lab.Filtered)), len(report.Back))
	}
	return nil
}

// doors claims who reaches what on the stable address.
func (s *story) doors(status *guard.Status) error {
	closed := len(status.Neighbourhoods)
	s.claim(closed > 0, "%d neighbourhoods are closed", closed)
	report, err := s.scan(s.lab.Harvester.Node, s.lab.Host.Addr6)
	if err != nil {
		return err
	}
	open := report.In(lab.Open)
	s.claim(!slices.ContainsFunc(open, func(f lab.Found) bool { return f.Proto == "tcp" && f.Port != allowed }),
		"the harvester, if it knew the stable address, would reach %v: no service but those of shield.allow", open)
	if report, err = s.scan(s.lab.Visitor, s.lab.Host.Addr6); err != nil {
		return err
	}
	open = report.In(lab.Open)
	s.claim(len(open) >= len(services), "an honest visitor from elsewhere still reaches %v", open)
	return nil
}

// stop claims that nothing stays.
func (s *story) stop(daemon *lab.Cmd) error {
	now, err := control.Call(s.ctx, s.socket(), control.Request{Verb: "exposures"})
	if err != nil {
		return err
	}
	var dropped uint64
	var blamed string
	for _, e := range now.Exposures {
		if dropped += e.Probes; e.Probes > 0 {
			blamed = e.Server
		}
	}
	s.claim(dropped > 0 && blamed == s.lab.Harvester.Addr6.String(), "the guard dropped %d packets to an address that only %s was shown", dropped, blamed)
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	err = daemon.Stop(ctx)
	s.claim(err == nil && time.Since(began) < 5*time.Second, "the daemon stops in %.1f s", time.Since(began).Seconds())
	left, err := s.left()
	if err != nil {
		return err
	}
	s.claim(len(left) == 0, "%d throw-away addresses are left on the host", len(left))
	return nil
}
