package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ntpveil/guard/lab"
)

// TestMain lets this binary be the daemon, too: one that kills itself.
func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		os.Exit(victim(dir, os.Getenv(victimCall)))
	}
	os.Exit(lab.Main(m.Run))
}

// hosts is how many labs are killed in at once: most of a sync is waiting.
const hosts = 5

// Killed just before any adapter call of its first sync, a daemon leaves nothing
// behind that does not end by itself, and the next run goes on from there.
func TestKilledBetweenAnyTwoCalls(t *testing.T) {
	first := newHost(t)
	moments := first.moments()
	t.Logf("%d adapter calls from the start to the end of the first sync", len(moments))
	var group errgroup.Group
	var next, late atomic.Int32
	for i := range hosts {
		h := first
		if i > 0 {
			h = newHost(t)
		}
		group.Go(func() error {
			for n := int(next.Add(1)); n <= len(moments); n = int(next.Add(1)) {
				last, err := h.killAt(moments[n-1])
				if err != nil {
					return fmt.Errorf("killed before %s (last: %s): %w", moments[n-1], last, err)
				}
				if last != moments[n-1] {
					late.Add(1) // some calls come more or less often: the host's facts, looks
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if n := int(late.Load()); n > len(moments)/4 {
		t.Errorf("in %d of %d runs the call did not come", n, len(moments))
	}
}

// host is a lab's host that daemons are killed on.
type host struct {
	*testing.T
	lab   *lab.Lab
	table *nftables.Conn
	own   map[netip.Addr]bool // what it had before
}

func newHost(t *testing.T) *host {
	l := lab.ForTest(t, lab.Options{Servers: 2})
	for key, value := range map[string]string{"ipv6/conf/eth0/router_solicitation_delay": "0", "ipv6/neigh/eth0/retrans_time_ms": "50"} {
		if err := l.Host.Sysctl(key, value); err != nil { // a DAD as real as any, in 50 ms
			t.Fatal(err)
		}
	}
	c, err := nftables.New(nftables.WithNetNSFd(l.Host.FD()))
	if err != nil {
		t.Fatal(err)
	}
	h := &host{T: t, lab: l, table: c, own: map[netip.Addr]bool{}}
	all, err := h.addresses()
	if err != nil {
		t.Fatal(err)
	}
	for a := range all {
		h.own[a] = true
	}
	return h
}

// moments are the calls up to where the tuples of the first sync are gone, each
// as its name and how often it came by then.
func (h *host) moments() (all []string) {
	h.Helper()
	err := h.run(h.TempDir(), "", func(line string) bool {
		call, isCall := strings.CutPrefix(line, "call ")
		if isCall {
			all = append(all, call)
		}
		return line == "over"
	})
	if err == nil {
		err = h.clear()
	}
	if err != nil {
		h.Fatal(err)
	}
	for _, call := range []string{"load 1", "lookup 1", "write 1", "grow (3 exposed, 3 solicited) 1", "set (3 addresses) 1",
		"shrink (3 exposed, 3 solicited) 1", "ask 3", "answered 3", "shrink (3 exposed, 0 solicited) 1"} {
		if !slices.Contains(all, call) {
			h.Fatalf("%q was not called: it cannot have been a whole sync: %v", call, all)
		}
	}
	return all
}

// killAt kills a daemon before a call, looks at what it left, and has another
// take over. It returns the last call that was about to be.
func (h *host) killAt(moment string) (last string, err error) {
	dir, err := os.MkdirTemp(h.TempDir(), "run")
	if err != nil {
		return "", err
	}
	err = h.run(dir, moment, func(line string) bool {
		last = strings.TrimPrefix(line, "call ")
		return false
	})
	if err != nil {
		return last, err
	}
	guarded, err := h.judge()
	if err != nil {
		return last, err
	}
	if err := h.run(dir, "", func(line string) bool { return line == "synced" }); err != nil {
		return last, fmt.Errorf("the next run: %w", err)
	}
	now, err := h.counting()
	if err != nil {
		return last, fmt.Errorf("after the next run: %w", err)
	}
	for addr := range guarded {
		if now[addr] == 0 {
			return last, fmt.Errorf("the next run took the guard of %s away", addr)
		}
	}
	return last, h.clear()
}

// run runs a daemon until it kills itself before the moment, or, where there is
// none, until a line of it ends the run; then it is stopped in order, and must
// leave no address.
func (h *host) run(dir, moment string, enough func(line string) bool) error {
	ctx, cancel := context.WithTimeout(h.Context(), 30*time.Second)
	defer cancel()
	c := h.lab.Host.Command(ctx, "/proc/self/exe")
	c.Env = append(os.Environ(), victimDir+"="+dir, victimCall+"="+moment)
	var log bytes.Buffer
	c.Stderr = &log
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if enough(lines.Text()) {
			return h.stop(ctx, c, out, &log)
		}
	}
	err = c.Wait()
	if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && moment != "" && status.Signaled() && ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("it ended: %v (%v)\n%s", err, ctx.Err(), &log)
}

// stop ends a daemon in order.
func (h *host) stop(ctx context.Context, c *lab.Cmd, out io.Reader, log *bytes.Buffer) error {
	drained := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, out)
		close(drained)
	}()
	if err := c.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	<-drained // before Wait, which closes the pipe
	if err := c.Wait(); err != nil {
		return fmt.Errorf("ordered stop: %w (%v)\n%s", err, ctx.Err(), log)
	}
	left, err := h.ours()
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("after an ordered stop there is still %v\n%s", left, log)
	}
	return err
}

// clear takes the table away, for the next turn.
func (h *host) clear() error {
	h.table.DelTable(&nftables.Table{Name: "ntpveil", Family: nftables.TableFamilyINet})
	return h.table.Flush()
}

// judge looks at what a killed daemon left: whatever it is, it must end by itself.
// It returns for how long which addresses are still guarded.
func (h *host) judge() (guarded map[netip.Addr]time.Duration, err error) {
	left, err := h.ours()
	if err != nil {
		return nil, err
	}
	if guarded, err = h.counting(); err != nil {
		return nil, err
	}
	for addr, a := range left {
		switch {
		case a.ValidLft <= 0 || a.ValidLft >= math.MaxUint32 || a.Flags&unix.IFA_F_PERMANENT != 0:
			return nil, fmt.Errorf("%s has no end: valid for %d s, flags %#x", addr, a.ValidLft, a.Flags)
		case a.PreferedLft != 0:
			return nil, fmt.Errorf("%s is preferred for %d s", addr, a.PreferedLft)
		case guarded[addr] < time.Duration(a.ValidLft)*time.Second:
			return nil, fmt.Errorf("%s is valid for %d s and guarded for %s", addr, a.ValidLft, guarded[addr])
		}
	}
	return guarded, nil
}

// counting makes sure that every element that the daemon put into a set ends by
// itself: that it has a timeout, and that what is left of it becomes less. It
// returns what is left of those of exposed6.
func (h *host) counting() (map[netip.Addr]time.Duration, error) {
	first, err := h.elements()
	if err != nil {
		return nil, err
	}
	exposed := map[netip.Addr]time.Duration{}
	for id, e := range first {
		if e.Timeout <= 0 || e.Expires <= 0 {
			return nil, fmt.Errorf("element %q has no end: timeout %s, %s left", id, e.Timeout, e.Expires)
		}
		if set, key, _ := strings.Cut(id, " "); set == "exposed6" {
			addr, _ := netip.AddrFromSlice([]byte(key))
			exposed[addr] = e.Expires
		}
	}
	deadline := time.Now().Add(2 * time.Second)
	for waiting := len(first) > 0; waiting; { // some jiffies
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the timeouts of %d elements do not count down", len(first))
		}
		then, err := h.elements()
		if err != nil {
			return nil, err
		}
		waiting = false
		for id, e := range first {
			now, there := then[id]
			waiting = waiting || there && now.Expires >= e.Expires
		}
	}
	return exposed, nil
}

// elements are those of all sets but the trusted ones, which have no end, by set
// and key.
func (h *host) elements() (map[string]nftables.SetElement, error) {
	all := map[string]nftables.SetElement{}
	tables, err := h.table.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, table := range tables {
		sets, err := h.table.GetSets(table)
		if err != nil {
			return nil, fmt.Errorf("list sets: %w", err)
		}
		for _, set := range sets {
			if strings.HasPrefix(set.Name, "trusted") || set.Anonymous {
				continue
			}
			elements, err := h.table.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("list set %s: %w", set.Name, err)
			}
			for _, e := range elements {
				all[set.Name+" "+string(e.Key)] = e
			}
		}
	}
	return all, nil
}

// ours are the addresses that the host did not have before.
func (h *host) ours() (map[netip.Addr]netlink.Addr, error) {
	all, err := h.addresses()
	for a := range h.own {
		delete(all, a)
	}
	return all, err
}

func (h *host) addresses() (map[netip.Addr]netlink.Addr, error) {
	list, err := h.lab.Host.Netlink().AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	all := map[netip.Addr]netlink.Addr{}
	for _, x := range list {
		a, _ := netip.AddrFromSlice(x.IP)
		all[a] = x
	}
	return all, nil
}
