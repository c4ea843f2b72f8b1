package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ntpveil/guard"
)

// DefaultPool is the pool that is asked where nothing is configured. It is set
// at link time by those who own a vendor zone; a plain build has none.
var DefaultPool string

const (
	maxFile  = 1 << 20
	maxFiles = 64
	poolPoll = 64 * time.Second
)

// Load reads a file and the conf.d beside it. A file that does not exist is an
// empty one, unless it was named by the user. The error is of type Errors.
func Load(path string, named bool) (guard.Config, error) {
	var files []File
	var errs Errors
	add := func(path string, must bool) {
		text, err := slurp(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !must:
		case err != nil:
			errs = append(errs, Error{File: path, Text: "read configuration: " + reason(err)})
		default:
			files = append(files, File{path, text})
		}
	}
	add(path, named)
	more, bad := beside(filepath.Join(filepath.Dir(path), "conf.d"))
	errs = append(errs, bad...)
	for _, p := range more {
		add(p, true)
	}
	if len(files) == 0 && len(errs) == 0 {
		files = []File{{Name: path}}
	}
	c, err := Parse(files)
	var found Errors
	if errors.As(err, &found) {
		errs = append(errs, found...)
	}
	if len(errs) > 0 {
		return guard.Config{}, errs
	}
	return c, nil
}

// beside lists the files of a conf.d in name order, without those that an editor
// or a package manager hides there. A directory that does not exist has none.
func beside(dir string) ([]string, Errors) {
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, Errors{{File: dir, Text: "read configuration: " + reason(err)}}
	}
	var out []string
	for _, e := range all {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	if len(out) > maxFiles {
		return nil, Errors{{File: dir, Text: fmt.Sprintf("read configuration: %d files, at most %d are read", len(out), maxFiles)}}
	}
	return out, nil
}

func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// slurp reads a regular file, a little beyond what is allowed so that it can be seen.
func slurp(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errNotFile
	}
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Parse makes a configuration of files; in a later one a scalar or a list takes
// the place of an earlier one. The error is of type Errors: all there are.
func Parse(files []File) (guard.Config, error) {
	d := defaults()
	var errs Errors
	places := map[string]place{}
	for _, f := range files {
		entries, bad := read(f)
		errs = append(errs, bad...)
		for _, e := range entries {
			places[e.key] = e.at
			if err := d.set(e); err != nil {
				errs = append(errs, e.at.errorf("%s", err))
			}
		}
	}
	at := func(key string) place {
		if p, written := places[key]; written {
			return p
		}
		if len(files) > 0 {
			return place{file: files[0].Name}
		}
		return place{file: "configuration"}
	}
	if len(errs) == 0 {
		errs = d.whole(at)
	}
	if len(errs) > 0 {
		return guard.Config{}, errs.sorted()
	}
	return d.Config, nil
}

// set sets one key.
func (d *draft) set(e entry) error {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == e.key })
	switch {
	case i >= 0:
		if err := keys[i].set(d, e.value); err != nil {
			return fmt.Errorf("%s: %w", e.key, err)
		}
		return nil
	case slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.name, e.key+".") }):
		return fmt.Errorf("%s: a table is wanted", e.key)
	}
	return fmt.Errorf("unknown key %s", e.key)
}

// Effective prints every key with its value, as TOML that makes the same
// configuration.
func Effective(c guard.Config) string {
	var b strings.Builder
	table := ""
	for _, k := range keys {
		head, rest, _ := strings.Cut(k.name, ".")
		if head != table {
			if table != "" {
				b.WriteByte('\n')
			}
			table = head
			fmt.Fprintf(&b, "[%s]\n", head)
		}
		fmt.Fprintf(&b, "%s = %s\n", rest, k.get(&c))
	}
	return b.String()
}
