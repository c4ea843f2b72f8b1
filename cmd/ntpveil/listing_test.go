package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"ntpveil/guard/lab"
)

// listed requires that nft prints all that there is, as text and as JSON, and
// that every rule tells a person what it is for.
func (h *host) listed() {
	h.Helper()
	text, err := h.nft("list", "ruleset")
	if err != nil {
		h.Fatal(err)
	}
	asJSON, err := h.nft("-j", "list", "ruleset")
	if err != nil {
		h.Fatal(err)
	}
	var listing struct {
		Nftables []map[string]struct {
			Name, Comment string
			Expr          []any
		} `json:"nftables"`
	}
	if err := json.Unmarshal(asJSON, &listing); err != nil {
		h.Fatalf("nft -j list ruleset: %v in %s", err, asJSON)
	}
	count := map[string]int{}
	for _, x := range listing.Nftables {
		for kind, what := range x {
			count[kind]++
			if kind == "rule" && (what.Comment == "" || len(what.Expr) == 0) {
				h.Errorf("a rule without a comment, or empty: %+v", what)
			}
		}
	}
	chains, rules, sets := h.kernelHas()
	h.Logf("%d chains, %d rules, %d sets, %d lines", chains, rules, sets, strings.Count(string(text), "\n"))
	if count["table"] != 1 || count["chain"] != chains || count["rule"] != rules || count["set"] != sets {
		h.Errorf("nft -j prints %v; the kernel has %d chains, %d rules, %d sets", count, chains, rules, sets)
	}
	for what, n := range map[string]int{`(?m)^\tchain `: chains, `(?m)^\t\t.* comment ".*"$`: rules, `(?m)^\tset `: sets} {
		if found := len(regexp.MustCompile(what).FindAll(text, -1)); found < n {
			h.Errorf("nft prints %d of %s, the kernel has %d:\n%s", found, what, n, text)
		}
	}
	if strings.Contains(string(text), "[invalid") || strings.Contains(string(text), "unknown") {
		h.Errorf("nft does not understand all of it:\n%s", text)
	}
}

// kernelHas counts what is in our table by netlink, not by nft.
func (h *host) kernelHas() (chains, rules, sets int) {
	h.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(h.lab.Host.FD()))
	if err != nil {
		h.Fatal(err)
	}
	table := &nftables.Table{Name: "ntpveil", Family: nftables.TableFamilyINet}
	all, err := c.ListChainsOfTableFamily(table.Family)
	if err != nil {
		h.Fatal(err)
	}
	for _, chain := range all {
		chain.Table = table
		in, err := c.GetRules(table, chain)
		if err != nil {
			h.Fatal(err)
		}
		rules += len(in)
	}
	named, err := c.GetSets(table)
	if err != nil {
		h.Fatal(err)
	}
	for _, set := range named {
		if !set.Anonymous {
			sets++
		}
	}
	return len(all), rules, sets
}

// mostResident is the resident memory, in KiB, that the idle daemon may have.
const mostResident = 40 << 10

// The daemon that waits for its next sync is small. It is the program as it is
// shipped, not this one with its tests and, perhaps, its race detector.
func TestIdleMemory(t *testing.T) {
	h := install(t, lab.Options{Servers: 4}, basics)
	h.hurry()
	h.binary = filepath.Join(h.dir, "ntpveil")
	if out, err := exec.Command("go", "build", "-o", h.binary, ".").CombinedOutput(); err != nil { //nolint:noctx // the test's own time limit holds
		t.Fatalf("build: %v: %s", err, out)
	}
	s := h.start()
	h.synced(10 * time.Second)
	status, err := os.ReadFile("/proc/" + strconv.Itoa(s.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatalf("no VmRSS in %s", status)
	}
	resident, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("resident memory of the idle daemon: %.1f MiB", float64(resident)/1024)
	if resident > mostResident {
		t.Errorf("the idle daemon has %d KiB in memory, at most %d are allowed", resident, mostResident)
	}
	s.stop()
}
