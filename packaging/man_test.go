package packaging

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ntpveil/rules"
)

func TestManPagesPassMandoc(t *testing.T) {
	need(t, "mandoc")
	dir := t.TempDir()
	run(t, "dpkg", "-x", deb(t), dir)
	pages, err := filepath.Glob(dir + "/usr/share/man/man*/*.gz")
	if err != nil || len(pages) != 3 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	for _, page := range pages {
		run(t, "mandoc", "-T", "lint", "-W", "error", page)
	}
}

var commandEntry = regexp.MustCompile(`(?m)^\*([a-z]+)\*.*\n\t`)

func TestManPageNamesEveryCommand(t *testing.T) {
	page := read(t, "ntpveil.8.scd")
	var described []string
	for _, m := range commandEntry.FindAllStringSubmatch(section(page, "# COMMANDS"), -1) {
		described = append(described, m[1])
	}
	compare(t, described, commands(t))
}

// commands asks the program's own completion which subcommands there are.
func commands(t *testing.T) (names []string) {
	t.Helper()
	for _, line := range strings.Split(run(t, program(t), "__complete", ""), "\n") {
		if name, _, ok := strings.Cut(line, "\t"); ok {
			names = append(names, name)
		}
	}
	return names
}

func TestManPageNamesEveryKeyOfTheSample(t *testing.T) {
	compare(t, slices.Sorted(maps.Keys(pageKeys(read(t, "ntpveil.toml.5.scd")))),
		slices.Sorted(maps.Keys(sampleKeys(read(t, "ntpveil.toml")))))
}

// TestManPageNamesEveryKeyOfAPreset, with the default that the code has.
func TestManPageNamesEveryKeyOfAPreset(t *testing.T) {
	page := read(t, "ntpveil-preset.5.scd")
	described := slices.Collect(maps.Keys(pageKeys(page)))
	for _, m := range regexp.MustCompile(`(?m)^\*([a-z]+)\* = `).FindAllStringSubmatch(section(page, "# DESCRIPTION"), -1) {
		described = append(described, m[1])
	}
	compare(t, described, rules.PresetKeys())
	all, errs := rules.ReadPresets(nil)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	defaults := all[rules.DefaultPreset].Values()
	table := ""
	for _, line := range strings.Split(strings.ReplaceAll(page, "\n# [", "\n["), "\n") {
		if m := header.FindStringSubmatch(line); m != nil {
			table = m[1]
		}
		m := pageAt.FindStringSubmatch(line)
		if m == nil || table == "" {
			continue
		}
		if got, want := line[len(m[0]):], strings.ReplaceAll(defaults[table+"."+m[1]], "15m0s", "15m"); got != want {
			t.Errorf("%s.%s is %s in the man page, %s in the code", table, m[1], got, want)
		}
	}
	for name := range all {
		if !strings.Contains(page, "\n*"+name+"*\n\t") {
			t.Errorf("preset %s is not in the man page", name)
		}
	}
}

var (
	header   = regexp.MustCompile(`^#? ?\[([a-z]+)\]`)
	sampleAt = regexp.MustCompile(`^(?:# ?)?([a-z_]+) += `)
	pageAt   = regexp.MustCompile(`^\*([a-z_0-9]+)\* = `)
	inner    = regexp.MustCompile(`[{,] \*?([a-z]+)\*? = `)
)

// sampleKeys are the keys of the sample, set or commented out, as table.key.
func sampleKeys(text string) map[string]bool { return keys(text, sampleAt) }

// pageKeys are the keys that the page describes.
func pageKeys(text string) map[string]bool {
	end := strings.Index(text, "\n# EXAMPLES")
	return keys(strings.ReplaceAll(text[:end], "\n# [", "\n["), pageAt)
}

func keys(text string, at *regexp.Regexp) map[string]bool {
	found, table := map[string]bool{}, ""
	for _, line := range strings.Split(text, "\n") {
		if m := header.FindStringSubmatch(line); m != nil {
			table = m[1]
		}
		m := at.FindStringSubmatch(line)
		if m == nil || table == "" {
			continue
		}
		found[table+"."+m[1]] = true
		for _, in := range inner.FindAllStringSubmatch(line, -1) {
			found[table+"."+m[1]+"."+in[1]] = true
		}
	}
	return found
}

// section is what stands below a heading, up to the next.
func section(page, heading string) string {
	_, rest, _ := strings.Cut(page, heading+"\n")
	body, _, _ := strings.Cut(rest, "\n# ")
	return body
}

func compare(t *testing.T, described, real []string) {
	t.Helper()
	if len(real) == 0 {
		t.Fatal("nothing to compare with")
	}
	for _, name := range real {
		if !slices.Contains(described, name) {
			t.Errorf("not in the man page: %s", name)
		}
	}
	for _, name := range described {
		if !slices.Contains(real, name) {
			t.Errorf("only in the man page: %s", name)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
