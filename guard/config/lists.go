package config

import (
	"net/netip"

	"ntpveil/guard/regular"
	"ntpveil/rules/lists"
)

// readLists reads the lists that a configuration names, as far as to know that they
// are right, and what tells them from others.
func (d *draft) readLists() (errs Errors) {
	n := 0
	for i, l := range d.Lists {
		f, err := regular.Open(l.Name)
		if err != nil {
			errs = append(errs, d.lists[l.Name].Errorf("shield.files: read list %s: %s", l.Name, reason(err)))
			continue
		}
		read, bad := lists.Read(l.Name, f, func(netip.Prefix) {})
		f.Close()
		errs = append(errs, bad...)
		d.Lists[i] = read
		if n += read.Prefixes(); n > lists.MaxPrefixes {
			return append(errs, place{File: l.Name}.Errorf("with this one there are more than %d prefixes", lists.MaxPrefixes))
		}
	}
	return errs
}
