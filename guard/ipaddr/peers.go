package ipaddr

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
)

const (
	maxPeers    = 4096
	established = "01" // TCP_ESTABLISHED
)

// readPeers are the far ends of established TCP sessions, sorted. It stops at
// maxPeers: whoever has more is a server, and its sessions are let through by
// connection tracking anyway.
func readPeers(paths ...string) []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil { // tcp6 is absent where IPv6 is
			continue
		}
		addPeers(seen, f)
		f.Close()
	}
	out := make([]netip.Addr, 0, len(seen))
	for a := range seen {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// addPeers reads lines of /proc/net/tcp or tcp6; those that are none are skipped.
func addPeers(seen map[netip.Addr]bool, r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(seen) < maxPeers {
		if a, ok := peer(lines.Text()); ok {
			seen[a] = true
		}
	}
}

// peer is the far end of an established session: of "sl local_address
// rem_address st …" the third, where the fourth says so.
func peer(line string) (netip.Addr, bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || fields[3] != established {
		return netip.Addr{}, false
	}
	text, _, _ := strings.Cut(fields[2], ":")
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 { // the kernel prints words, in its own byte order
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	a = a.Unmap()
	return a, !a.IsUnspecified() && !a.IsLoopback()
}
