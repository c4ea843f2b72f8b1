package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"math"
	"net"

	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"ntpveil/guard"
)

const (
	ticks        = 100 // a second: USER_HZ, whatever the kernel's own
	maxAncestors = 64
	noAudit      = math.MaxUint32 // the audit session of whoever did not log in
)

// process is what /proc tells of one.
type process struct {
	pid, parent int
	began       time.Duration // CLOCK_BOOTTIME
	audit       uint32
}

// sessionOf is the session that a process is of: that of the login which the
// kernel's audit remembers, through sudo, su, tmux and setsid alike. It began with
// its oldest process, which for ssh is the one that the connection was taken by.
// Where there was no login it is what was started by a service, as the outermost
// ancestor but one.
func sessionOf(proc fs.FS, pid int) guard.Session {
	line := ancestry(proc, pid)
	var s guard.Session
	if len(line) == 0 {
		return s
	}
	from, to := peerOf(proc, line)
	if s.From = from; from.IsValid() {
		s.Port, s.Device = to.Port(), deviceOf(to.Addr())
	}
	if audit := line[0].audit; audit != noAudit {
		s.ID, s.Began = fmt.Sprintf("login %d", audit), loginBegan(proc, line[0])
		return s
	}
	top := len(line) - 1
	if line[top].parent == 1 && !inSSH(proc, line[top].pid) {
		top-- // a service: sshd, cron, a console's login; not a terminal multiplexer that one left behind
	}
	if top >= 0 {
		s.ID, s.Began = fmt.Sprintf("process %d of %s", line[top].pid, line[top].began), line[top].began
	}
	return s
}

// ancestry is a process, its parent, and so on, without init.
func ancestry(proc fs.FS, pid int) (out []process) {
	for pid > 1 && len(out) < maxAncestors {
		p, err := readProcess(proc, pid)
		if err != nil {
			break
		}
		out = append(out, p)
		pid = p.parent
	}
	return out
}

// loginBegan is when the oldest process began that a login has.
func loginBegan(proc fs.FS, of process) time.Duration {
	began := of.began
	all, _ := fs.ReadDir(proc, ".")
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(proc, pid); err == nil && p.audit == of.audit {
			began = min(began, p.began)
		}
	}
	return began
}

// readProcess reads the files stat and sessionid (proc(5)).
func readProcess(proc fs.FS, pid int) (process, error) {
	dir := strconv.Itoa(pid)
	stat, err := fs.ReadFile(proc, path.Join(dir, "stat"))
	if err != nil {
		return process{}, err
	}
	p, err := parseStat(string(stat))
	p.pid, p.audit = pid, noAudit
	if text, e := fs.ReadFile(proc, path.Join(dir, "sessionid")); e == nil {
		if n, e := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); e == nil {
			p.audit = uint32(n)
		}
	}
	return p, err
}

// parseStat reads the parent and the time of start; the name before them, in
// parentheses, may be anything.
func parseStat(stat string) (p process, err error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return p, fmt.Errorf("read process: %d fields", len(fields))
	}
	p.parent, err = strconv.Atoi(fields[1])
	start, e := strconv.ParseInt(fields[19], 10, 64)
	if e == nil && (start < 0 || start > math.MaxInt64/int64(time.Second/ticks)) {
		e = fmt.Errorf("read process: it began at %d", start)
	}
	p.began = time.Duration(start) * time.Second / ticks
	return p, cmp.Or(err, e)
}

// peerOf is the far end of the ssh session that a process is in, and what it
// connected to: sshd tells its children, and sudo keeps it from its own.
func peerOf(proc fs.FS, line []process) (from netip.Addr, to netip.AddrPort) {
	for _, p := range line {
		if text, ok := connection(proc, p.pid); ok {
			return parseConnection(text)
		}
	}
	return from, to
}

// connection is what sshd told a process.
func connection(proc fs.FS, pid int) (text string, ok bool) {
	env, err := fs.ReadFile(proc, path.Join(strconv.Itoa(pid), "environ"))
	if err != nil {
		return "", false
	}
	for _, v := range strings.Split(string(env), "\x00") {
		if text, ok := strings.CutPrefix(v, "SSH_CONNECTION="); ok {
			return text, true
		}
	}
	return "", false
}

func inSSH(proc fs.FS, pid int) bool {
	_, ok := connection(proc, pid)
	return ok
}

// parseConnection reads client, its port, server, its port (ssh(1)).
func parseConnection(text string) (from netip.Addr, to netip.AddrPort) {
	f := strings.Fields(text)
	if len(f) != 4 {
		return from, to
	}
	from, err := netip.ParseAddr(f[0])
	server, err2 := netip.ParseAddr(f[2])
	port, err3 := strconv.ParseUint(f[3], 10, 16)
	if cmp.Or(err, err2, err3) != nil {
		return netip.Addr{}, to
	}
	return from, netip.AddrPortFrom(server, uint16(port))
}

// deviceOf is the device that has an address; empty: none, or it cannot be told.
func deviceOf(a netip.Addr) string {
	all, _ := net.Interfaces()
	for _, dev := range all {
		addrs, _ := dev.Addrs()
		for _, x := range addrs {
			if p, err := netip.ParsePrefix(x.String()); err == nil && p.Addr() == a.Unmap().WithZone("") {
				return dev.Name
			}
		}
	}
	return ""
}
