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
	"ntpveil/guard/regular"
	"ntpveil/rules"
	"ntpveil/rules/strict"
)

// Files, and errors with their places, are those of package strict.
type (
	File   = strict.File
	Error  = strict.Error
	Errors = strict.Errors
	place  = strict.Place
)

// DefaultPool is the pool that is asked where nothing is configured. It is set
// at link time by those who own a vendor zone; a plain build has none.
var DefaultPool string

const (
	maxFiles = 64
	poolPoll = 64 * time.Second
)

// VendorPresets is where packages put presets.
const VendorPresets = "/usr/share/ntpveil/presets"

// Load reads a file, the conf.d beside it, and the presets (see Presets). A file
// that does not exist is an empty one, unless it was named by the user. The error
// is of type Errors.
func Load(path string, named bool) (guard.Config, error) { return load(path, named) }

// LoadWith is Load as if conf.d said last that this preset is chosen.
func LoadWith(path string, named bool, preset string) (guard.Config, error) {
	return load(path, named, File{Name: "preset " + preset, Text: []byte(SavedText(preset))})
}

// SavedText is what a file of conf.d says that chooses a preset.
func SavedText(preset string) string {
	return "[shield]\npreset = " + strict.Quote(preset) + "\n"
}

func load(path string, named bool, last ...File) (guard.Config, error) {
	files, errs := gather(path, named)
	files = append(files, last...)
	presets, bad := presetFiles(path)
	errs = append(errs, bad...)
	d, found := checked(files, presets, len(errs) == 0)
	errs = append(errs, found...)
	if errs = append(errs, d.readLists()...); len(errs) > 0 {
		return guard.Config{}, errs
	}
	return d.Config, nil
}

// Socket is where the daemon of a configuration listens, whatever else is wrong
// with that: an admin has to reach a daemon that runs while its files are being
// mended. Only a file that the user named has to be there.
func Socket(path string, named bool) (string, error) {
	files, errs := gather(path, named)
	if named && len(errs) > 0 && errs[0].File == path {
		return "", errs
	}
	socket := defaults().Socket
	for _, f := range files {
		entries, _ := strict.Read(f, isTable)
		for _, e := range entries {
			d := defaults()
			if e.Key == "control.socket" && d.set(e) == nil {
				socket = d.Socket
			}
		}
	}
	return socket, nil
}

// Over is a preset with what [shield] of a configuration says in place of its own,
// for rules that no daemon puts up: what else is wrong with that hinders nobody. The
// error is of type Errors.
func Over(path string, named bool, p rules.Preset) (rules.Preset, error) {
	files, errs := gather(path, named)
	d, written := defaults(), map[string]place{}
	for _, f := range files {
		entries, bad := strict.Read(f, isTable)
		errs = append(errs, bad...)
		for _, e := range entries {
			if tableOf(e.Key) == "shield" {
				written[e.Key] = e.At
				errs = append(errs, d.set(e)...)
			}
		}
	}
	if len(errs) > 0 {
		return p, errs.Sorted(files)
	}
	d.Written = saidOf(written)
	if p = d.Over(p); d.Written.Mode {
		p.Mode = d.Shield // no daemon is there to hold a shield back that is off
	}
	return p, nil
}

// gather reads the files of a configuration: at least one, or an error.
func gather(path string, named bool) (files []File, errs Errors) {
	add := func(path string, must bool) {
		text, err := slurp(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !must:
		case err != nil:
			errs = append(errs, Error{File: path, Text: "read configuration: " + reason(err)})
		default:
			files = append(files, File{Name: path, Text: text})
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
	return files, errs
}

// Presets are those that are built in and those of the vendor's directory and of
// the directory presets beside the configuration, in this order; a later one takes
// the place of an earlier one of the same name. The error is of type Errors.
func Presets(path string) (rules.Presets, error) {
	files, errs := presetFiles(path)
	all, bad := rules.ReadPresets(files)
	if errs = append(errs, bad...); len(errs) > 0 {
		return nil, errs
	}
	return all, nil
}

func presetFiles(path string) (files []File, errs Errors) {
	for _, dir := range []string{VendorPresets, filepath.Join(filepath.Dir(path), "presets")} {
		names, bad := beside(dir)
		errs = append(errs, bad...)
		for _, name := range names {
			text, err := slurp(name)
			if err != nil {
				errs = append(errs, Error{File: name, Text: "read preset: " + reason(err)})
				continue
			}
			files = append(files, File{Name: name, Text: text})
		}
	}
	return files, errs
}

// beside lists the files of a directory such as conf.d in name order, without those that an editor
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
	f, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, strict.MaxFile+1))
}

// Parse makes a configuration of files; in a later one a scalar or a list takes
// the place of an earlier one. Presets are files of presets beside those that are
// built in. The error is of type Errors: all there are.
func Parse(files []File, presets ...File) (guard.Config, error) {
	d, errs := checked(files, presets, true)
	if len(errs) > 0 {
		return guard.Config{}, errs
	}
	return d.Config, nil
}

// checked is Parse. Where not all could be read, nothing is said about the whole.
func checked(files, presets []File, all bool) (*draft, Errors) {
	d := defaults()
	known, errs := rules.ReadPresets(presets)
	places, wrong := map[string]place{}, map[string]bool{}
	for _, f := range files {
		entries, bad := strict.Read(f, isTable)
		errs = append(errs, bad...)
		all = all && len(bad) == 0
		for _, e := range entries {
			places[e.Key] = e.At
			if bad := d.set(e); len(bad) > 0 {
				errs = append(errs, bad...)
				wrong[tableOf(e.Key)] = true
			}
		}
	}
	at := func(key string) place {
		if p, written := places[key]; written {
			return p
		}
		switch {
		case len(files) == 0:
			return place{File: "configuration"}
		case files[0].Text == nil: // it need not exist
			return place{File: files[0].Name}
		}
		return place{File: files[0].Name, Line: 1, Column: 1}
	}
	if known != nil && !wrong["shield"] {
		errs = append(errs, d.choose(known, places, at)...)
	}
	if all {
		errs = append(errs, d.whole(at, func(table string) bool { return !wrong[table] })...)
	}
	return &d, errs.Sorted(slices.Concat(files, presets))
}

func tableOf(key string) string {
	table, _, _ := strings.Cut(key, ".")
	return table
}

// set sets one key.
func (d *draft) set(e strict.Entry) Errors {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == e.Key })
	switch {
	case i >= 0:
		return e.Errors(keys[i].set(d, e.Value))
	case slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.name, e.Key+".") }):
		return Errors{e.At.Errorf("%s: a table is wanted", e.Key)}
	}
	return Errors{e.At.Errorf("unknown key %s", e.Key)}
}

func isTable(name string) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.name, name+".") })
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
