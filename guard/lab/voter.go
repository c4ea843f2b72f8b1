package lab

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// Voter is a real chronyd in the node that asks servers as a client does, and
// touches no clock.
type Voter struct {
	node   *Node
	socket string
}

// Voter starts a chronyd that asks these servers and believes no fewer than so
// many that agree. It ends with the lab.
func (n *Node) Voter(ctx context.Context, minSources int, servers ...netip.Addr) (*Voter, error) {
	dir, err := n.lab.tempDir()
	if err != nil {
		return nil, err
	}
	v := &Voter{node: n, socket: filepath.Join(dir, "chronyd.sock")}
	conf := []string{"port 0", "cmdport 0", "bindcmdaddress " + v.socket, "pidfile " + dir + "/pid", fmt.Sprintf("minsources %d", minSources)}
	for _, s := range servers {
		conf = append(conf, fmt.Sprintf("server %s iburst", s))
	}
	c, err := n.peer(ctx, dir, conf, "chronyd", "-x", "-d", "-u", "root", "-f")
	if err != nil {
		return nil, err
	}
	return v, c.until(ctx, func(ctx context.Context) bool {
		_, err := v.chronyc(ctx, "sources")
		return err == nil
	})
}

// Vote is what became of the servers.
type Vote struct {
	Synchronised bool
	Letters      map[netip.Addr]string // as `chronyc sources` has them: * + - x ? ~
	Explained    string                // what `chronyc selectdata` says, as it is
}

// Await returns the vote when every server has answered all queries of the first
// burst: four, 2 s apart.
func (v *Voter) Await(ctx context.Context) (Vote, error) {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		vote, complete, err := v.vote(ctx)
		if complete || err != nil {
			return vote, err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return vote, fmt.Errorf("await the vote of chronyd at %s: %w", v.node.Name, ctx.Err())
		}
	}
}

// vote reads the state: a line a source, mode, state, name, stratum, poll, reach.
func (v *Voter) vote(ctx context.Context) (vote Vote, complete bool, err error) {
	lines, err := v.chronyc(ctx, "sources")
	if err != nil {
		return vote, false, err
	}
	complete, vote.Letters = true, map[netip.Addr]string{}
	for _, l := range lines {
		if len(l) < 6 {
			return vote, false, fmt.Errorf("read sources of chronyd: %q", l)
		}
		a, err := netip.ParseAddr(l[2])
		if err != nil {
			return vote, false, fmt.Errorf("read sources of chronyd: %w", err)
		}
		vote.Letters[a] = l[1]
		complete = complete && l[5] == "17" // octal: four answers
	}
	tracking, err := v.chronyc(ctx, "tracking")
	if err != nil || len(tracking) != 1 {
		return vote, false, fmt.Errorf("read tracking of chronyd: %q: %w", tracking, err)
	}
	vote.Synchronised = tracking[0][len(tracking[0])-1] != "Not synchronised"
	explained, err := v.chronyc(ctx, "selectdata")
	for _, l := range explained {
		vote.Explained += strings.Join(l, " ") + "\n"
	}
	return vote, complete, err
}

// chronyc asks, and reads the answer.
func (v *Voter) chronyc(ctx context.Context, args ...string) ([][]string, error) {
	out, err := v.node.Command(ctx, "chronyc", append([]string{"-c", "-h", v.socket}, args...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("ask chronyd: %w: %s", err, out)
	}
	r := csv.NewReader(strings.NewReader(string(out)))
	r.FieldsPerRecord = -1
	return r.ReadAll()
}
