package control

import (
	"math"
	"net"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is who is at the other end.
type peer struct {
	uid  uint32
	rank rank
}

// peerOf is who is at the other end. When in doubt it is anyone.
func peerOf(c *net.UnixConn) peer {
	uid, gids, err := credentials(c)
	switch {
	case err != nil:
		return peer{uid: math.MaxUint32}
	case uid == 0:
		return peer{rank: root}
	}
	g, err := user.LookupGroup(Group)
	if err != nil {
		return peer{uid: uid}
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	if err == nil && slices.Contains(gids, uint32(gid)) {
		return peer{uid, group}
	}
	return peer{uid: uid}
}

// credentials are the peer's user and all of its groups, as they were when it connected.
func credentials(c *net.UnixConn) (uid uint32, gids []uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	e := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		uid, gids = cred.Uid, []uint32{cred.Gid}
		more, e := peerGroups(int(fd))
		gids, err = append(gids, more...), e
	})
	if e != nil {
		return 0, nil, e
	}
	return uid, gids, err
}

// peerGroups are the supplementary groups (SO_PEERGROUPS, Linux 4.13).
func peerGroups(fd int) ([]uint32, error) {
	gids := make([]uint32, 1024)
	size := uint32(len(gids) * 4)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&gids[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, errno
	}
	return gids[:size/4], nil
}
