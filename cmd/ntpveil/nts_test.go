package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ntpveil/guard"
	"ntpveil/guard/lab"
	"ntpveil/guard/ledger"
)

const ntsOnly = "[time]\nnts = [\"s1.pool.example\", \"s2.pool.example\", \"s3.pool.example\", \"s4.pool.example\"]\n"

// installNTS sets a host up among real NTS servers whose authority it trusts.
func installNTS(t *testing.T, servers int, keys string) *host {
	t.Helper()
	authority, err := lab.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	h := install(t, lab.Options{Servers: servers, NTS: authority.Issue}, keys)
	if err := os.WriteFile(h.path("ca.pem"), authority.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// A daemon among real NTS servers is synchronised, says that it is by NTS, and
// neither a key exchange nor a query shows the stable address; no two servers, and
// no key exchange and query, see the same one. A restart goes on with the keys that
// are there.
func TestNTS(t *testing.T) {
	h := installNTS(t, 4, ntsOnly)
	capture, err := h.lab.Host.Link.Peer.Capture()
	if err != nil {
		t.Fatal(err)
	}
	s := h.start()
	status := h.synced(20 * time.Second)
	t.Logf("synchronised %.1f s after the start, offset %+.6f s", time.Since(s.began).Seconds(), status.Clock.Offset)
	if len(status.Servers) != 4 {
		t.Errorf("%d servers", len(status.Servers))
	}
	for _, x := range status.Servers {
		if !x.NTS || x.State != "selected" && x.State != "candidate" {
			t.Errorf("%s: nts=%t, %s: %s", x.Name, x.NTS, x.State, x.Reason)
		}
	}
	s.stop()
	again := h.start()
	status = h.synced(20 * time.Second)
	t.Logf("and %.1f s after the restart", time.Since(again.began).Seconds())
	table, err := h.program("servers").Output()
	if n := strings.Count(string(table), " yes "); err != nil || n != 4 {
		t.Errorf("%d servers with NTS (%v):\n%s", n, err, table)
	}
	var exposures []guard.ExposureStatus
	h.json(&exposures, "exposures", "--json")
	for _, x := range exposures {
		if x.Probes != 0 {
			t.Errorf("what %s sent late passes for %d probes of %s", x.Server, x.Probes, x.Address)
		}
	}
	left, err := h.nft("list", "chain", "inet", "ntpveil", "leaving")
	if err != nil || !strings.Contains(string(left), "counter packets 0 bytes 0 drop") {
		t.Errorf("something else would have left from a throw-away address (%v):\n%s", err, left)
	}
	told, _ := json.Marshal(status)
	again.stop()
	if err := capture.Close(); err != nil {
		t.Fatal(err)
	}
	h.exchanged(capture.Packets())
	h.secret(s.log.String(), again.log.String(), string(told), string(table))
}

// Without IPv6 keys are exchanged over IPv4, and it is said that the servers see
// the stable address.
func TestNTSOverIPv4(t *testing.T) {
	h := installNTS(t, 4, ntsOnly)
	h.renumber("")
	h.resolv = h.path("resolv.conf")
	if err := os.WriteFile(h.resolv, []byte("nameserver "+h.lab.DNS.Addr4.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := h.start()
	status := h.synced(20 * time.Second)
	for _, x := range status.Servers {
		if !x.NTS || x.State != "selected" && x.State != "candidate" {
			t.Errorf("%s: nts=%t, %s: %s", x.Name, x.NTS, x.State, x.Reason)
		}
	}
	if !slices.ContainsFunc(status.Weaknesses, func(w guard.Weakness) bool { return w.Code == "ipv4" }) {
		t.Errorf("weaknesses %+v", status.Weaknesses)
	}
	s.stop()
}

// A server whose certificate nobody trusts is not asked at all, whatever else it
// would say, and status tells why.
func TestNTSWithoutTrust(t *testing.T) {
	h := installNTS(t, 1, "[time]\nnts = [\"s1.pool.example\"]\n")
	stranger, err := lab.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("ca.pem"), stranger.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	capture, err := h.lab.Host.Link.Peer.Capture()
	if err != nil {
		t.Fatal(err)
	}
	s := h.start()
	s.log.await(t, 20*time.Second, with("no keys of s1.pool.example:4460"))
	status := h.status()
	if why := fmt.Sprint(status.Weaknesses); status.Synchronized || !strings.Contains(why, "unknown authority") || status.Servers[0].State != "new" {
		t.Errorf("%+v", status)
	}
	s.stop()
	if err := capture.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range capture.Packets() {
		if _, to := p.Ports(); !p.Out && p.Proto == unix.IPPROTO_UDP && to == 123 {
			t.Errorf("%s was asked", p.Dst)
		}
	}
}

// exchanged judges what left: four key exchanges, each from an address that
// nothing else was asked from, protected queries, and nothing from a stable one.
func (h *host) exchanged(packets []lab.Packet) {
	h.Helper()
	kes, asked := map[netip.Addr]netip.Addr{}, map[netip.Addr]netip.Addr{}
	for _, p := range packets {
		if p.Out {
			continue
		}
		_, to := p.Ports()
		switch {
		case p.Proto == unix.IPPROTO_TCP && to == 4460:
			kes[p.Src] = p.Dst
		case p.Proto == unix.IPPROTO_UDP && to == 123:
			asked[p.Src] = p.Dst
			if len(p.Payload) < 8+200 {
				h.Errorf("%s was asked without protection: %d bytes", p.Dst, len(p.Payload))
			}
		default:
			continue
		}
		if h.own[p.Src] {
			h.Errorf("%s port %d saw the stable address", p.Dst, to)
		}
	}
	if len(kes) != 4 || len(asked) != 8 {
		h.Errorf("%d addresses exchanged keys and %d asked, want 4 and 8", len(kes), len(asked))
	}
	for a := range kes {
		if asked[a].IsValid() {
			h.Errorf("%s exchanged keys and asked", a)
		}
	}
}

// secret requires that keys and cookies are in the ledger, which nobody else can
// read, and in no text, however they might be written there.
func (h *host) secret(texts ...string) {
	h.Helper()
	if st, err := os.Stat(h.path("ledger.db")); err != nil || st.Mode().Perm() != 0o600 {
		h.Errorf("the ledger: %v (%v)", st.Mode(), err)
	}
	book, err := ledger.Open(h.path("ledger.db"))
	if err != nil {
		h.Fatal(err)
	}
	defer book.Close()
	kept, err := book.Load()
	if err != nil || len(kept.NTS) != 4 {
		h.Fatalf("keys of %d hosts in the ledger (%v)", len(kept.NTS), err)
	}
	text := strings.Join(texts, "\n")
	for _, r := range kept.NTS {
		// One may be spent: on the sync that was about to begin when the daemon was stopped.
		if n := len(r.Cookies); n != 8 && n != 7 || r.Server.Port() != 123 || len(r.Used) == 0 {
			h.Errorf("%s has %d cookies for %s", r.Name, len(r.Cookies), r.Server)
		}
		for _, x := range append(r.Cookies, r.Keys.ToServer, r.Keys.ToClient) {
			for _, written := range []string{fmt.Sprintf("%x", []byte(x[:8])), fmt.Sprintf("%X", []byte(x[:8])), base64.StdEncoding.EncodeToString(x[:9]), strings.Trim(fmt.Sprint([]byte(x[:8])), "[]")} {
				if strings.Contains(text, written) {
					h.Errorf("a secret of %s was told", r.Name)
				}
			}
		}
	}
}
