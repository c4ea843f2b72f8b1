package clockbench

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ntpveil/guard"
	"ntpveil/guard/control"
	"ntpveil/guard/lab"
)

// Polls are the poll intervals of the programs.
type Polls struct {
	Name    string
	ntpveil string // a line of its configuration
	chronyd string // options of its servers
}

// Equal polls are the shortest that ntpveil's restraint allows; Defaults are each
// program's own.
var (
	Equal    = Polls{"equal polls, 64 s", `poll = { min = "64s", max = "64s" }`, "iburst minpoll 6 maxpoll 6"}
	Defaults = Polls{"each program's defaults", "", "iburst"}
)

// Reading is what a program says.
type Reading struct {
	At       time.Time // of the machine's clock: in the middle of the question and the answer
	Took     time.Duration
	Offset   float64 // s by which the machine's clock is behind
	Distance float64 // s: its root distance
	Agreeing int     // servers that it says agree; -1: it has none
}

// usable is said of a reading with an error.
func (r Reading) usable(wrong float64) bool {
	return r.Agreeing >= MinAgree && wrong <= r.Distance && -wrong <= r.Distance
}

// program is what is measured. Several goroutines may read at once.
type program interface {
	read(ctx context.Context) (Reading, error)
}

// daemon is a program in the host.
type daemon struct {
	dir  string
	cmd  *lab.Cmd
	said bytes.Buffer // ours once it has ended
	up   atomic.Bool  // it has answered
}

func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

// start runs it with a configuration file as its last argument.
func (d *daemon) start(ctx context.Context, n *lab.Node, conf, name string, args ...string) error {
	file := d.path(filepath.Base(name) + ".conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	d.cmd = n.Command(ctx, name, append(args, file)...)
	d.cmd.Stdout, d.cmd.Stderr = &d.said, &d.said
	return d.cmd.Start()
}

// unanswered is what it means that it did not answer: nothing, as long as it starts.
func (d *daemon) unanswered(err error) error {
	select {
	case <-d.cmd.Exited():
		return fmt.Errorf("%s ended: %w: %s", d.cmd.Path, d.cmd.Wait(), &d.said)
	default:
	}
	if d.up.Load() {
		return fmt.Errorf("ask %s: %w", d.cmd.Path, err)
	}
	return nil
}

// ntpveil is the daemon that is built of this tree.
type ntpveil struct{ daemon }

func (p *ntpveil) run(ctx context.Context, n *lab.Node, binary string, servers []netip.AddrPort, polls Polls) error {
	var list []string
	for _, s := range servers {
		list = append(list, strconv.Quote(s.String()))
	}
	conf := fmt.Sprintf("[time]\nservers = [%s]\nmin_agree = %d\n%s\n[ledger]\npath = %q\n[control]\nsocket = %q\n",
		strings.Join(list, ", "), MinAgree, polls.ntpveil, p.path("ledger.db"), p.path("control.sock"))
	return p.start(ctx, n, conf, binary, "daemon", "--observe-clock", "--config")
}

func (p *ntpveil) read(ctx context.Context) (Reading, error) {
	before := time.Now()
	s, err := control.Call(ctx, p.path("control.sock"), control.Request{Verb: "status"})
	r := reading(before)
	if err != nil {
		return r, p.unanswered(err)
	}
	p.up.Store(true)
	r.Offset, r.Distance, r.Agreeing = s.Clock.Offset, s.Clock.RootDistance, agreeing(s)
	return r, nil
}

func agreeing(s *guard.Status) (n int) {
	if !s.Synchronized {
		return -1
	}
	for _, x := range s.Servers {
		if x.State == "selected" {
			n++
		}
	}
	return n
}

// reading begins one of a question that was asked before and is answered now.
func reading(before time.Time) Reading {
	took := time.Since(before)
	return Reading{At: before.Add(took / 2), Took: took, Agreeing: -1}
}

// chronyd is a real one. It touches no clock.
type chronyd struct{ daemon }

func (p *chronyd) run(ctx context.Context, n *lab.Node, servers []netip.AddrPort, polls Polls) error {
	run := p.path("run") // chronyd wants it to be its own
	conf := fmt.Sprintf("bindcmdaddress %s/sock\ncmdport 0\npidfile %s/pid\n", run, run)
	for _, s := range servers {
		conf += fmt.Sprintf("server %s %s\n", s.Addr(), polls.chronyd)
	}
	return p.start(ctx, n, conf, "chronyd", "-x", "-d", "-u", "root", "-f")
}

func (p *chronyd) read(ctx context.Context) (Reading, error) {
	before := time.Now()
	out, err := chronyc(ctx, p.path("run/sock"))
	r := reading(before)
	if err != nil {
		return r, p.unanswered(err)
	}
	p.up.Store(true)
	return parseChronyc(r, out)
}

// chronyc asks a chronyd through its socket.
func chronyc(ctx context.Context, socket string) ([]byte, error) {
	return exec.CommandContext(ctx, "chronyc", "-h", socket, "-c", "-m", "tracking", "sources").Output()
}

// parseChronyc reads the answers to tracking and sources.
func parseChronyc(r Reading, out []byte) (Reading, error) {
	lines := csv.NewReader(bytes.NewReader(out))
	lines.FieldsPerRecord = -1
	rows, err := lines.ReadAll()
	if err != nil || len(rows) == 0 || len(rows[0]) < 14 {
		return r, fmt.Errorf("read what chronyc says: %w: %q", err, out)
	}
	tracking := rows[0]
	var number [3]float64 // system time, root delay, root dispersion
	for i, field := range []int{4, 10, 11} {
		if number[i], err = strconv.ParseFloat(tracking[field], 64); err != nil {
			return r, fmt.Errorf("read what chronyc says: %w", err)
		}
	}
	r.Offset, r.Distance = number[0], number[1]/2+number[2]
	if tracking[13] == "Not synchronised" {
		return r, nil
	}
	r.Agreeing = 0
	for _, source := range rows[1:] {
		if len(source) > 1 && strings.Contains("*+-", source[1]) {
			r.Agreeing++
		}
	}
	return r, nil
}
