package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotAlone tells that another daemon runs in this network.
var ErrNotAlone = errors.New("another ntpveil runs in this network")

// Alone claims this network namespace for one daemon, until it is closed or the
// process ends. Two of them, each with a ledger and a control socket of its own, would
// take each other's table and addresses for tampering, hundreds of times a second.
//
// The claim is a name among the abstract sockets (unix(7)), since these belong to the
// network namespace as the table does, whatever the file systems are. Any user can
// take a name: who is neither root, nor our own user, nor the service's is no daemon
// and keeps nobody out. Then nothing is claimed.
func Alone() (io.Closer, error) { return claim("@" + Group) }

func claim(name string) (io.Closer, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	switch {
	case err == nil:
		go dismiss(l)
		return l, nil
	case !errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("claim network: %w", err)
	}
	if uid, listens := holder(name); listens && daemonsUser(uid) {
		return nil, fmt.Errorf("claim network: %w, as user %d", ErrNotAlone, uid)
	}
	return io.NopCloser(nil), nil
}

// dismiss takes the connections of those who looked: they wait in a short row.
func dismiss(l *net.UnixListener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// holder is the user who listens, as the kernel noted it at listen. A daemon
// always listens.
func holder(name string) (uid uint32, listens bool) {
	c, err := connect(context.Background(), name, time.Second)
	if err != nil {
		return 0, false
	}
	defer c.Close()
	uid, _, err = credentials(c.(*net.UnixConn))
	return uid, err == nil
}

// daemonsUser reports whether a daemon of ours can run as this user.
func daemonsUser(uid uint32) bool {
	if uid == 0 || uid == uint32(os.Geteuid()) {
		return true
	}
	service, err := user.Lookup(Group)
	return err == nil && service.Uid == strconv.FormatUint(uint64(uid), 10)
}
