package ipaddr

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strings"
)

// addListed adds the far ends of the established sessions in a file of
// /proc/net. tcp6 is absent where IPv6 is.
func addListed(seen map[netip.Addr]bool, path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	addPeers(seen, f)
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
	if len(fields) < 4 || fields[3] != "01" {
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
	return outside(a)
}
