package rules

import (
	"embed"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"ntpveil/rules/strict"
)

//go:embed presets/*.toml
var builtIn embed.FS

// Presets are presets by name.
type Presets map[string]Preset

// ReadPresets reads files of presets, each named NAME.toml, beside those that are
// built in. A later file takes the place of an earlier one, and of a built-in
// preset, of the same name; where it extends its own name, the earlier one is
// meant. A preset that extends nothing extends the workstation. All errors are
// told at once.
func ReadPresets(files []strict.File) (Presets, strict.Errors) {
	r := presetReader{layers: map[string][]*layer{}}
	names, _ := builtIn.ReadDir("presets")
	for _, n := range names {
		text, _ := builtIn.ReadFile("presets/" + n.Name())
		r.add(strict.File{Name: builtInName + n.Name(), Text: text})
	}
	for _, f := range files {
		r.add(f)
	}
	out := Presets{}
	for _, name := range slices.Sorted(maps.Keys(r.layers)) {
		all := r.layers[name]
		for i := range all { // those that are hidden as well: an error in one is an error
			out[name], _ = r.resolve(all, i)
		}
	}
	if len(r.errs) > 0 {
		return nil, r.errs.Sorted(files)
	}
	return out, nil
}

// ParsePreset reads a preset that says every key, as Preset.Text prints it.
func ParsePreset(name, text string) (Preset, error) {
	all, errs := ReadPresets([]strict.File{{Name: name + ".toml", Text: []byte(text)}})
	if len(errs) > 0 {
		return Preset{}, errs
	}
	return all[name], nil
}

const builtInName = "built in/"

// layer is one file of a preset.
type layer struct {
	name, file string
	entries    []strict.Entry
	extends    string       // empty: it says nothing
	at         strict.Place // of extends

	busy, done bool // being resolved, resolved
	result     Preset
}

type presetReader struct {
	layers map[string][]*layer // of one name, the built-in one first
	errs   strict.Errors
}

func (r *presetReader) add(f strict.File) {
	l := &layer{name: strings.TrimSuffix(path.Base(f.Name), ".toml"), file: f.Name, at: strict.Place{File: f.Name}}
	if !plainName(l.name) {
		r.errs = append(r.errs, l.at.Errorf("%q is no name of a preset: letters, digits, - and _ are taken", l.name))
		return
	}
	entries, errs := strict.Read(f, func(table string) bool {
		return slices.ContainsFunc(presetKeys, func(k presetKey) bool { return strings.HasPrefix(k.name, table+".") })
	})
	r.errs = append(r.errs, errs...)
	if len(entries)+len(errs) == 0 { // a shell empties the file that `rules show` is to write, before that reads it
		r.errs = append(r.errs, l.at.Errorf("it says nothing, and a preset says what it extends at least: extends = %s", strict.Quote(DefaultPreset)))
	}
	for _, e := range entries {
		switch {
		case e.Key != "extends":
			l.entries = append(l.entries, e)
		case e.Value.Kind != unstable.String || e.Value.Text == "":
			r.errs = append(r.errs, e.At.Errorf("extends: the name of a preset is wanted"))
		default:
			l.extends, l.at = e.Value.Text, e.At
		}
	}
	r.layers[l.name] = append(r.layers[l.name], l)
}

func plainName(s string) bool {
	return s != "" && len(s) <= 32 && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
}

// resolve makes the preset of a layer, its parent's first. What is wrong is told
// once, where it stands; a preset whose parent is wrong says no more.
func (r *presetReader) resolve(all []*layer, i int) (Preset, bool) {
	l := all[i]
	if l.busy {
		r.errs = append(r.errs, l.at.Errorf("extends: %s is, by way of others, what it extends itself", l.name))
		return Preset{}, false
	}
	if l.done {
		return l.result, l.result.Name != ""
	}
	l.busy = true
	p, ok := r.parent(all, i)
	l.busy, l.done = false, true
	p.Name, p.Origin = l.name, l.file
	if strings.HasPrefix(l.file, builtInName) {
		p.Origin = "built in"
	}
	before := len(r.errs)
	for _, e := range l.entries {
		r.set(&p, e)
	}
	if ok && len(r.errs) == before {
		r.whole(l, &p)
	}
	if !ok || len(r.errs) > before {
		return Preset{}, false
	}
	l.result = p
	return p, true
}

// parent is what a layer begins with.
func (r *presetReader) parent(all []*layer, i int) (Preset, bool) {
	l := all[i]
	name := l.extends
	if name == "" {
		if name = DefaultPreset; l.name == DefaultPreset && i == 0 {
			return Preset{}, true
		}
	}
	if name == l.name && i > 0 {
		return r.resolve(all, i-1)
	}
	others := r.layers[name]
	if len(others) == 0 {
		r.errs = append(r.errs, l.at.Errorf("extends: there is no preset %q", name))
		return Preset{}, false
	}
	return r.resolve(others, len(others)-1)
}

func (r *presetReader) set(p *Preset, e strict.Entry) {
	i := slices.IndexFunc(presetKeys, func(k presetKey) bool { return k.name == e.Key })
	switch {
	case i >= 0:
		r.errs = append(r.errs, e.Errors(presetKeys[i].set(p, e.Value))...)
	case slices.ContainsFunc(presetKeys, func(k presetKey) bool { return strings.HasPrefix(k.name, e.Key+".") }):
		r.errs = append(r.errs, e.At.Errorf("%s: a table is wanted", e.Key))
	default:
		r.errs = append(r.errs, e.At.Errorf("unknown key %s", e.Key))
	}
}

// whole checks what no key can say alone.
func (r *presetReader) whole(l *layer, p *Preset) {
	at := func(keys ...string) strict.Place {
		for _, e := range l.entries {
			if slices.Contains(keys, e.Key) {
				return e.At
			}
		}
		return l.at
	}
	c := p.Choices
	switch {
	case c.Learn == FromForward && c.Hooks == AtInput:
		r.errs = append(r.errs, at("learn.from", "closed.hooks").Errorf(`learn.from: "forward" needs "forward" in closed.hooks`))
	case c.Learn == FromOutput && len(p.Users) == 0:
		r.errs = append(r.errs, at("learn.users", "learn.from").Errorf(`learn.users: "output" learns from these users' queries, and none is named`))
	case c.Listening && c.Hooks == AtForward:
		r.errs = append(r.errs, at("closed.listening", "closed.hooks").Errorf(`closed.listening: no socket of this host listens in "forward" alone`))
	case c.Leaf && c.Hooks == AtForward:
		r.errs = append(r.errs, at("ntp.inbound", "closed.hooks").Errorf(`ntp.inbound: "answers" is about this host's own port 123, which needs "input" in closed.hooks`))
	}
}
