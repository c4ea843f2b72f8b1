package nft

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"ntpveil/rules"
)

// rehearse has the kernel check that parts can be put back, under another name: the
// table may belong to a daemon that lives.
func (s *Shield) rehearse(parts []Part) error {
	if len(parts) == 0 {
		return nil
	}
	if err := s.conn.strange(); err != nil {
		return err
	}
	b := &batch{}
	if err := b.parts(s.netns, parts); err != nil {
		return err
	}
	for i, m := range b.msgs {
		b.msgs[i].data = renamed(m.data, rules.TableName+"_rehearsal")
	}
	err := s.conn.check(b)
	if errors.Is(err, unix.EMSGSIZE) {
		err = fmt.Errorf("set %s is too large: %w", largest(parts), err)
	}
	return err
}

// largest is the set whose elements take most room.
func largest(parts []Part) (set string) {
	size := map[string]int{}
	for _, p := range parts {
		if p.Type == unix.NFT_MSG_NEWSETELEM {
			name := p.name()
			if size[name] += len(p.Data); size[name] > size[set] {
				set = name
			}
		}
	}
	return set
}

func renamed(table attrs, name string) (out attrs) {
	for t, data := range each(table) {
		if t == 1 {
			out = out.text(t, name)
		} else {
			out = out.bytes(t, data)
		}
	}
	return out
}

// strange fails where the table has what no copy holds, and names it.
func (c *conn) strange() error {
	var found []string
	note := func(what string) func([]byte) {
		return func(b []byte) {
			if tableOf(b) == rules.TableName {
				found = append(found, what+" "+find(b, 2))
			}
		}
	}
	err := c.list(unix.NFT_MSG_GETOBJ, ours(), note("object"))
	if err == nil {
		err = c.list(unix.NFT_MSG_GETFLOWTABLE, ours(), note("flowtable"))
	}
	if err != nil {
		return explain(err)
	}
	if len(found) > 0 {
		return fmt.Errorf("somebody added %s to table inet %s: remove that first", strings.Join(found, ", "), rules.TableName)
	}
	return nil
}
