package ipaddr

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Where time servers stand that the network names: systemd-networkd keeps a file a
// link, by its index; of whoever else speaks DHCP the hooks that are installed with
// ntpveil write one file an interface, an address a line.
const (
	networkdLinks = "/run/systemd/netif/links"
	dropFiles     = "/run/ntpveil-dhcp"
)

const (
	maxTimeServers = 16
	maxTimeFiles   = 64
	maxTimeFile    = 64 << 10
)

// timeServers are those of the link that queries leave by, and those of the drop
// directory, whatever their interface: who writes them knows which one is in use.
func (s *Stack) timeServers(link int) []netip.Addr {
	var out []netip.Addr
	take := func(path string, parse func(io.Reader) []netip.Addr) {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		for _, a := range parse(f) {
			if !slices.Contains(out, a) && len(out) < maxTimeServers {
				out = append(out, a)
			}
		}
	}
	if link != 0 {
		take(filepath.Join(s.networkd, strconv.Itoa(link)), parseNetworkd)
	}
	files, _ := filepath.Glob(filepath.Join(s.drops, "*.servers")) // in name order; the pattern is none that could be wrong
	for _, path := range files[:min(len(files), maxTimeFiles)] {
		take(path, parseServers)
	}
	return out
}

// parseNetworkd reads the NTP= line of systemd-networkd's state of a link: what
// the leases and router advertisements name, and what is configured for the link.
// Names are skipped: they would be resolved by the resolver that the same network
// names, and what came of it would pass for an answer of a configured one.
func parseNetworkd(r io.Reader) []netip.Addr {
	var out []netip.Addr
	lines := bufio.NewScanner(io.LimitReader(r, maxTimeFile))
	for lines.Scan() {
		if value, found := strings.CutPrefix(lines.Text(), "NTP="); found {
			out = addAddrs(out, strings.Fields(value))
		}
	}
	return out
}

// parseServers reads an address a line; # begins a comment.
func parseServers(r io.Reader) []netip.Addr {
	var out []netip.Addr
	lines := bufio.NewScanner(io.LimitReader(r, maxTimeFile))
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if words := strings.Fields(text); len(words) == 1 {
			out = addAddrs(out, words)
		}
	}
	return out
}

// addAddrs adds the words that are addresses which a server may have.
func addAddrs(to []netip.Addr, words []string) []netip.Addr {
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if a = a.Unmap(); err == nil && len(to) < maxTimeServers && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() {
			to = append(to, a)
		}
	}
	return to
}
