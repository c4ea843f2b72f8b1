package ipaddr

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

const (
	maxResolvers  = 64
	maxResolvConf = 64 << 10
)

// resolvers are those of all files, in their order; a file that is not there
// names none.
func (s *Stack) resolvers() []netip.Addr {
	var out []netip.Addr
	for _, path := range s.resolvConf {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		for _, a := range parseResolvers(f) {
			if !slices.Contains(out, a) && len(out) < maxResolvers {
				out = append(out, a)
			}
		}
		f.Close()
	}
	return out
}

// parseResolvers reads the nameserver lines of resolv.conf(5), without the zones
// of link-local ones. What it does not understand it skips, as libc does.
func parseResolvers(r io.Reader) []netip.Addr {
	var out []netip.Addr
	lines := bufio.NewScanner(io.LimitReader(r, maxResolvConf))
	for lines.Scan() && len(out) < maxResolvers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, a.WithZone("").Unmap())
		}
	}
	return out
}
