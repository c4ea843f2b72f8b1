package guardtest

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed is one package as go list tells it.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Standard   bool
}

// pure packages decide: no socket, no process, no netlink, no clock.
var pure = []string{"ntpveil/guard", "ntpveil/guard/selection", "ntpveil/guard/servo", "ntpveil/rules", "ntpveil/rules/strict", "ntpveil/rules/lists"}

// forbidden is what a pure package may not even reach.
var forbidden = []string{"net", "os/exec", "os/signal", "syscall/js", "golang.org/x/sys/unix", "github.com/vishvananda/netlink", "github.com/mdlayher/netlink", "github.com/google/nftables"}

// mayImport is which packages of ours each may import; those that are not
// named are adapters, which may import the core's values, rules and selection.
var mayImport = map[string][]string{
	"ntpveil/guard":                     {"ntpveil/guard/selection", "ntpveil/guard/servo", "ntpveil/rules"},
	"ntpveil/guard/selection":           {},
	"ntpveil/guard/servo":               {},
	"ntpveil/rules/strict":              {},
	"ntpveil/rules":                     {"ntpveil/rules/strict"},
	"ntpveil/rules/lists":               {"ntpveil/rules", "ntpveil/rules/strict"},
	"ntpveil/guard/regular":             {},
	"ntpveil/guard/config":              {"ntpveil/guard", "ntpveil/guard/regular", "ntpveil/rules", "ntpveil/rules/strict", "ntpveil/rules/lists"},
	"ntpveil/guard/daemon":              {"ntpveil/guard", "ntpveil/rules"},
	"ntpveil/guard/guardtest":           nil, // anything but cmd
	"ntpveil/guard/guardtest/timeworld": {"ntpveil/guard", "ntpveil/guard/selection", "ntpveil/rules"},
	"ntpveil/guard/lab":                 nil,
	"ntpveil/cmd/ntpveil":               nil,

	"ntpveil/guard/lab/clockbench": nil,
}

var adapterMay = []string{"ntpveil/guard", "ntpveil/guard/selection", "ntpveil/guard/regular", "ntpveil/rules", "ntpveil/rules/lists"}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports,Deps,Standard", "ntpveil/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestArchitecture holds what guard/doc.go says of who may import whom.
func TestArchitecture(t *testing.T) {
	for _, p := range list(t) {
		if !strings.HasPrefix(p.ImportPath, "ntpveil") {
			continue
		}
		if top := strings.Split(p.ImportPath, "/"); len(top) < 2 || !slices.Contains([]string{"cmd", "guard", "rules", "packaging"}, top[1]) {
			t.Errorf("%s: the top level is cmd, guard, rules, packaging, systemd", p.ImportPath)
		}
		imports(t, p)
		if slices.Contains(pure, p.ImportPath) {
			for _, d := range p.Deps {
				if slices.Contains(forbidden, d) {
					t.Errorf("%s is pure and reaches %s", p.ImportPath, d)
				}
			}
			timeless(t, p)
		}
	}
}

func imports(t *testing.T, p listed) {
	may, named := mayImport[p.ImportPath]
	if !named {
		may = adapterMay
	}
	for _, i := range p.Imports {
		switch {
		case !strings.HasPrefix(i, "ntpveil"):
		case i == "ntpveil/cmd/ntpveil" || i == "ntpveil/guard/guardtest":
			t.Errorf("%s imports %s", p.ImportPath, i)
		case named && may == nil:
		case !slices.Contains(may, i):
			t.Errorf("%s imports %s: imports point one way (guard/doc.go)", p.ImportPath, i)
		}
	}
}

// timeless: a pure package never asks what time it is and never draws from a
// source of its own.
func timeless(t *testing.T, p listed) {
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := call.X.(*ast.Ident)
			if ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "After", "NewTimer", "NewTicker", "Sleep", "Tick", "AfterFunc"}, call.Sel.Name) {
				t.Errorf("%s/%s asks for the time: time.%s", p.ImportPath, name, call.Sel.Name)
			}
			return true
		})
	}
}
