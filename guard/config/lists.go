package config

import (
	"net/netip"
	"os"

	"ntpveil/guard"
	"ntpveil/rules/lists"
)

// readLists reads the lists that a configuration names, as far as to know that they
// are right, and what tells them from others.
func readLists(c *guard.Config) (errs Errors) {
	n := 0
	for i, l := range c.Lists {
		f, err := openRegular(l.Name)
		if err != nil {
			errs = append(errs, Error{File: l.Name, Text: "read list: " + reason(err)})
			continue
		}
		read, bad := lists.Read(l.Name, f, func(netip.Prefix) {})
		f.Close()
		errs = append(errs, bad...)
		c.Lists[i] = read
		if n += read.Prefixes(); n > lists.MaxPrefixes {
			return append(errs, place{File: l.Name}.Errorf("with this one there are more than %d prefixes", lists.MaxPrefixes))
		}
	}
	return errs
}

// openRegular opens a file without waiting for a pipe's other end.
func openRegular(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNotFile
	}
	return os.Open(path)
}
