package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Chronyd runs a real chronyd in the node and returns when it answers. It takes
// the machine's clock as right and never touches it. More lines of configuration
// may be given. It ends with the lab.
func (n *Node) Chronyd(ctx context.Context, lines ...string) (*Cmd, error) {
	dir, err := n.lab.tempDir()
	if err != nil {
		return nil, err
	}
	conf := []string{"cmdport 0", "bindcmdaddress /", "local stratum 2", "allow all", "pidfile " + dir + "/pid"}
	c, err := n.peer(ctx, dir, append(conf, lines...), "chronyd", "-x", "-d", "-u", "root", "-f")
	if err != nil {
		return nil, err
	}
	return c, c.until(ctx, func(ctx context.Context) bool { return n.asks(ctx, netip.AddrPortFrom(n.Addr6, 123)) })
}

// chronydNTS runs a real chronyd that is an NTS server of a name.
func (n *Node) chronydNTS(ctx context.Context, name string, o Options) (*Cmd, error) {
	dir, err := n.lab.tempDir()
	if err != nil {
		return nil, err
	}
	cert, key, err := o.NTS(Certificate{Names: []string{name}})
	if err != nil {
		return nil, err
	}
	for file, text := range map[string][]byte{"cert": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			return nil, fmt.Errorf("configure chronyd: %w", err)
		}
	}
	return n.Chronyd(ctx, "ntsservercert "+dir+"/cert", "ntsserverkey "+dir+"/key", "ntsdumpdir "+dir)
}

// radvd runs a real radvd for one link of the router. It advertises at once.
func (n *Node) radvd(ctx context.Context, on *Link, what Advertisement) error {
	dir, err := n.lab.tempDir()
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("interface %s { AdvSendAdvert on; AdvDefaultLifetime %.0f; MaxRtrAdvInterval 10;\n"+
		"prefix %s { AdvValidLifetime %.0f; AdvPreferredLifetime %.0f; }; };\n",
		on.Name, what.Router.Seconds(), what.Prefix, what.Valid.Seconds(), what.Preferred.Seconds())
	_, err = n.peer(ctx, dir, []string{conf}, "radvd", "-n", "-m", "stderr", "-p", dir+"/pid", "-C")
	return err
}

// peer starts a program whose last argument is its configuration file.
func (n *Node) peer(ctx context.Context, dir string, conf []string, name string, args ...string) (*Cmd, error) {
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, []byte(strings.Join(conf, "\n")+"\n"), 0o644); err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	c := n.Command(context.WithoutCancel(ctx), name, append(args, file)...)
	var said bytes.Buffer // whole and ours when it has ended
	c.Stdout, c.Stderr = &said, &said
	return c, c.Start()
}

// until returns when the program is ready, which none of them tells.
func (c *Cmd) until(ctx context.Context, ready func(context.Context) bool) error {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for !ready(ctx) {
		select {
		case <-t.C:
		case <-c.Exited():
			return fmt.Errorf("start %s: %w: %s", c.Path, errors.Join(errors.New("it ended"), c.Wait()), c.Stderr)
		case <-ctx.Done():
			return fmt.Errorf("start %s: %w", c.Path, ctx.Err())
		}
	}
	return nil
}

// asks reports whether an NTP server answers the node within 100 ms.
func (n *Node) asks(ctx context.Context, server netip.AddrPort) bool {
	c, err := n.Dial(ctx, "udp", server.String())
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.Write(NTP{Version: 4, Mode: 3, Transmit: 1}.Bytes()); err != nil {
		return false
	}
	b := make([]byte, 128)
	k, err := c.Read(b)
	p, ok := ParseNTP(b[:k])
	return err == nil && ok && p.Mode == 4 && p.Stratum > 0 && p.Leap != 3
}

// tempDir makes a directory that goes with the lab.
func (l *Lab) tempDir() (string, error) {
	dir, err := os.MkdirTemp("", "ntpveil-lab-")
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.undo = append(l.undo, func() { os.RemoveAll(dir) })
	return dir, nil
}
