package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Cmd is a program in a node. It is used as an exec.Cmd is: set what is to be
// set, then Start and Wait, Run, Output or CombinedOutput.
//
// The program has the node's network namespace, and a mount namespace where
// /etc/resolv.conf names the lab's DNS and /sys shows the node's devices. It
// cannot move the machine's clock, whatever user it runs as. Programs that
// detach themselves are not followed: let them stay in the foreground.
type Cmd struct {
	*exec.Cmd
	node   *Node
	mounts []mount
	exited chan struct{}
	once   sync.Once
	result error
}

type mount struct{ target, source string }

// Command prepares a program to be run in the node. It is killed when ctx is
// done or the lab is closed, and when this process ends, however it does.
func (n *Node) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := &Cmd{Cmd: exec.CommandContext(ctx, name, args...), node: n}
	c.SysProcAttr = diesWithUs()
	c.SysProcAttr.Setpgid = true
	c.WaitDelay = 2 * time.Second
	return c
}

// Mount shows the program the directory source at target, or, where source is
// empty, an empty one in memory.
func (c *Cmd) Mount(target, source string) *Cmd {
	c.mounts = append(c.mounts, mount{target, source})
	return c
}

// Start starts the program and returns.
func (c *Cmd) Start() (err error) {
	l := c.node.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.done:
		return fmt.Errorf("start %s: the lab is closed", c.Path)
	default:
	}
	if c.exited, err = start(c.Cmd, c.prepare); err != nil {
		return fmt.Errorf("start %s in %s: %w", c.Path, c.node.Name, err)
	}
	l.programs[c] = true
	return nil
}

// Exited is closed when the program has ended. It is nil before Start.
func (c *Cmd) Exited() <-chan struct{} { return c.exited }

// Wait returns when the program has ended. Unlike an exec.Cmd's it may be called
// by several goroutines, and again.
func (c *Cmd) Wait() error {
	if c.exited == nil {
		return errors.New("wait: not started")
	}
	<-c.exited
	c.once.Do(func() {
		c.result = c.Cmd.Wait()
		c.node.lab.forget(c)
	})
	return c.result
}

// Run starts the program and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// CombinedOutput runs the program and returns what it printed.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	return b.Bytes(), err
}

// Output runs the program and returns what it printed to standard output.
func (c *Cmd) Output() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout = &b
	err := c.Run()
	return b.Bytes(), err
}

// Stop asks the program to end and waits until it has, or ctx is done, which
// kills it.
func (c *Cmd) Stop(ctx context.Context) error {
	if err := c.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.Path, err)
	}
	select {
	case <-c.exited:
	case <-ctx.Done():
		c.kill()
	}
	return c.Wait()
}

// kill ends the program and its process group, where it is not reaped yet.
func (c *Cmd) kill() {
	if err := c.Process.Kill(); err == nil {
		<-c.exited
	}
}

func (l *Lab) forget(c *Cmd) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.programs, c)
}

func (l *Lab) endPrograms() {
	l.mu.Lock()
	running := make([]*Cmd, 0, len(l.programs))
	for c := range l.programs {
		running = append(running, c)
	}
	l.mu.Unlock()
	for _, c := range running {
		c.kill()
		_ = c.Wait() // killed: that is its result
	}
}
