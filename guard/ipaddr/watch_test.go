package ipaddr

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestWatchSurvivesLostMessages overruns the socket before anybody reads it:
// the loss is told as a change, and so is what comes after it.
func TestWatchSurvivesLostMessages(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace (unshare -rn gives one)")
	}
	s := &Stack{hint: make(chan struct{}, 1)}
	var handle *netlink.Handle
	opened := make(chan error)
	go func() {
		runtime.LockOSThread()
		opened <- func() (err error) {
			if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			if s.changes, err = openChanges(); err != nil {
				return err
			}
			handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		}()
	}()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.changes.socket.SetReceiveBufferSize(1, false); err != nil { // the kernel's minimum
		t.Fatal(err)
	}
	change := func() {
		for _, change := range []func(netlink.Link) error{handle.LinkSetUp, handle.LinkSetDown} {
			if err := change(lo); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 20 {
		change()
	}

	told := make(chan struct{})
	ended := make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- s.Watch(ctx, func() { told <- struct{}{} }) }()
	s.wg.Add(1)
	go s.listen()
	for range 3 {
		await(t, told)
		change()
	}
	await(t, told)
	cancel()
	go func() {
		for range told { // one may be on its way
		}
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.changes.close()
	s.wg.Wait()
	close(told)
}

func await(t *testing.T, told chan struct{}) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("a change was not told")
	}
}
