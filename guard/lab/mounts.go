package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// prepare makes the thread what the program is to inherit.
func (c *Cmd) prepare() error {
	if err := unix.Setns(c.node.FD(), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Where a container hides parts of /sys the kernel refuses a whole one
	// to a user namespace: then the old one stays.
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "")
	for _, m := range c.mounts {
		if err := m.make(); err != nil {
			return err
		}
	}
	if err := c.resolvConf(c.node.lab.DNS.Addr6); err != nil {
		return err
	}
	return withoutClock()
}

func (m mount) make() (err error) {
	if m.source == "" {
		err = unix.Mount("tmpfs", m.target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	} else {
		err = unix.Mount(m.source, m.target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// resolvConf puts a file over /etc/resolv.conf. The file lies in a file system
// in memory that is not mounted anywhere once this is done.
func (c *Cmd) resolvConf(dns netip.Addr) error {
	target, err := c.resolvTarget()
	if err != nil {
		return fmt.Errorf("find resolv.conf: %w", err)
	}
	shelf := os.TempDir()
	if err := (mount{target: shelf}).make(); err != nil {
		return err
	}
	file := filepath.Join(shelf, "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver "+dns.String()+"\n"), 0o644); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	if err := (mount{target: target, source: file}).make(); err != nil {
		return err
	}
	if err := unix.Unmount(shelf, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", shelf, err)
	}
	return nil
}

// resolvTarget is the file that /etc/resolv.conf leads to. Where it led into a
// directory that a mount of ours has just covered the file is made there.
func (c *Cmd) resolvTarget() (string, error) {
	const path = "/etc/resolv.conf"
	target, err := filepath.EvalSymlinks(path)
	if err == nil {
		return target, nil
	}
	link, errLink := os.Readlink(path)
	if errLink != nil {
		return "", err
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join(filepath.Dir(path), link)
	}
	for _, m := range c.mounts {
		if m.source == "" && strings.HasPrefix(link, m.target+"/") {
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				return "", err
			}
			return link, os.WriteFile(link, nil, 0o644)
		}
	}
	return "", err
}
