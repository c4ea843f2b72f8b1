package nft

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// Watch calls lost, from one goroutine, whenever somebody else changed or removed
// the table, as soon as the kernel tells (within a millisecond). It returns when ctx is done, or with an error when
// the kernel cannot be listened to.
//
// The kernel drops messages when they come faster than they are read. Then another
// socket is opened and the table compared with what was last known of it.
func (s *Shield) Watch(ctx context.Context, lost func(culprit string)) error {
	return s.watch(ctx, func() {}, lost)
}

// watch also calls listening, each time that from then on no change is missed.
func (s *Shield) watch(ctx context.Context, listening func(), lost func(culprit string)) error {
	told := lost
	lost = func(culprit string) {
		s.meddled.Store(true)
		told(culprit)
	}
	for again := false; ctx.Err() == nil; again = true {
		nl, err := s.listen()
		if err != nil {
			return fmt.Errorf("watch table: %w", err)
		}
		stop := context.AfterFunc(ctx, func() { nl.Close() })
		if again && !s.intact() {
			lost("an unknown process: there were too many changes at once")
		}
		listening()
		err = s.follow(nl, lost)
		stop()
		nl.Close()
		if ctx.Err() == nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch table: %w", err)
		}
	}
	return nil
}

func (s *Shield) listen() (*netlink.Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: s.netns, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, err
	}
	if err := nl.SetReadBuffer(s.watchBuffer); err != nil {
		nl.Close()
		return nil, err
	}
	return nl, nil
}

// follow reads messages until that fails. The messages of one transaction end
// with that of the new generation, which names the process.
func (s *Shield) follow(nl *netlink.Conn, lost func(culprit string)) error {
	foreign := false
	for {
		got, err := nl.Receive()
		if err != nil {
			return err
		}
		for _, m := range got {
			kind, about := decodeNotice(uint16(m.Header.Type), m.Data)
			switch {
			case kind == unix.NFT_MSG_NEWGEN:
				if foreign {
					lost(decodeGeneration(body(m.Data)).culprit())
				}
				foreign = false
			case about && !s.ports.has(m.Header.PID):
				foreign = true
			}
		}
	}
}

// decodeNotice is what a message of the kernel's to all listeners is, and whether it
// is about our table: every message but that of the generation begins with the
// name of its table.
func decodeNotice(typ uint16, data []byte) (kind uint16, about bool) {
	if typ>>8 != unix.NFNL_SUBSYS_NFTABLES || len(data) < 4 {
		return 0, false
	}
	kind = typ & 0xff
	if kind == unix.NFT_MSG_NEWGEN || data[0] != unix.NFPROTO_INET {
		return kind, false
	}
	for typ, data := range each(body(data)) {
		if typ == 1 {
			return kind, textOf(data) == rules.TableName
		}
	}
	return kind, false
}

// intact reports whether the table is as it was last known to be, but for
// elements that ran out.
func (s *Shield) intact() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.st
	if old == nil || s.conn == nil {
		return true // nothing is taken for known: the next look reads everything
	}
	now := s.clock.now()
	st, err := s.conn.read(s.clock)
	if err != nil {
		s.giveUp(nil)
		return false
	}
	s.st = st
	if st.mark != old.mark || st.exists != old.exists {
		return false
	}
	for name, set := range old.sets {
		for k, e := range set.elems {
			if e.until > now+margin && !has(st.sets[name].elems, k) {
				return false
			}
		}
	}
	return true
}
