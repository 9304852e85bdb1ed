package agent

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/lull/lull/"

// TestFloors: the package comments of agent and of agent/lib name each package below
// them, on a floor above those of all that it imports. The README has the same list.
func TestFloors(t *testing.T) {
	list := floorsOf(t, "agent.go")
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, row, _ := strings.Cut(string(readme), "| `agent/` | root | ")
	row, _, _ = strings.Cut(row, "\n")
	_, row, _ = strings.Cut(row, "alone: ")
	if row = strings.ReplaceAll(strings.TrimSuffix(row, " |"), "`", ""); row != list {
		t.Errorf("the README: got the floors\n%s\nwant those of the package comment\n%s", row, list)
	}
	t.Run("agent", func(t *testing.T) { checkFloors(t, ".", module+"agent/", list) })
	t.Run("lib", func(t *testing.T) { checkFloors(t, "lib", module+"agent/lib/", floorsOf(t, "lib/doc.go")) })
}

// floorsOf returns the list of floors in a file's package comment, on one line.
func floorsOf(t *testing.T, file string) string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(f.Doc.Text(), "alone:\n")
	return strings.Join(strings.Fields(list), " ")
}

// checkFloors holds the imports of all packages below a directory against the list.
func checkFloors(t *testing.T, dir, prefix, list string) {
	floor := map[string]int{}
	for i, names := range strings.Split(list, "; ") {
		for _, name := range strings.Split(names, ", ") {
			floor[name] = i + 1
		}
	}
	eachImport(t, dir, func(path, of string) {
		below, err := filepath.Rel(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		name, _, isBelow := strings.Cut(below, "/")
		if !isBelow {
			return
		}
		if floor[name] == 0 {
			t.Errorf("got no floor for %s, want it in the list", name)
		}
		of, ours := strings.CutPrefix(of, prefix)
		of, _, _ = strings.Cut(of, "/")
		if ours && of != name && floor[of] >= floor[name] {
			t.Errorf("%s imports %s, which is not below %s", path, of, name)
		}
	})
}

// TestLibStandsAlone: agent/lib imports nothing of this module but itself, so that
// dbus and policy can import it, and so that it brings no privileged code along.
func TestLibStandsAlone(t *testing.T) {
	eachImport(t, "lib", func(path, of string) {
		if strings.HasPrefix(of, module) && !strings.HasPrefix(of, module+"agent/lib/") && !strings.Contains(path, "/inotifytest/") {
			t.Errorf("%s: got the import %s, want none of this module but agent/lib", path, of)
		}
	})
}

// eachImport calls f with each file of the programs below dir and each of its imports.
func eachImport(t *testing.T, dir string, f func(path, of string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range file.Imports {
			of, _ := strconv.Unquote(i.Path.Value)
			f(path, of)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUserProgramsLinkNoAgent: the launcher and the helper, which run as the user, link
// nothing of the agent but agent/lib. The command line links repositories besides, for
// the packager, and the store, for the builder of an image.
func TestUserProgramsLinkNoAgent(t *testing.T) {
	for program, more := range map[string][]string{
		"lull-run":   nil,
		"lull-userd": nil,
		"lull":       {"agent/delta", "agent/repo", "agent/repo/apt", "agent/repo/publish", "agent/repo/publish/bucket", "agent/repo/site", "agent/repo/site/words", "agent/repo/watch", "agent/exports", "agent/exports/desktopentry", "agent/store", "agent/convert", "agent/convert/check"},
	} {
		t.Run(program, func(t *testing.T) {
			out, err := exec.Command("go", "list", "-deps", module+"cmd/"+program).CombinedOutput()
			if err != nil {
				t.Fatalf("go list: %v\n%s", err, out)
			}
			lib := 0
			for dep := range strings.FieldsSeq(string(out)) {
				dep, ours := strings.CutPrefix(dep, module)
				switch {
				case !ours:
				case strings.HasPrefix(dep, "agent/lib/"):
					lib++
				case dep == "agent" || strings.HasPrefix(dep, "agent/"):
					if !slices.Contains(more, dep) {
						t.Errorf("%s: got %s linked, want of agent only agent/lib and %v", program, dep, more)
					}
				}
			}
			if lib == 0 {
				t.Errorf("%s: got nothing of agent/lib in the list of what it links, want at least one package", program)
			}
		})
	}
}

// TestEveryRoomHasAnAllowList: each package of the programs is matched by one strict
// list of .depguard.yaml, which then names all that it may import.
func TestEveryRoomHasAnAllowList(t *testing.T) {
	b, err := os.ReadFile("../.depguard.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lists := map[string]int{} // directory → how many lists match its files
	for _, m := range regexp.MustCompile(`(?m)^  listMode: strict\n  files: \[(.*), "!\$test"\]$`).FindAllStringSubmatch(string(b), -1) {
		for glob := range strings.SplitSeq(m[1], `", "`) {
			if strings.HasPrefix(glob, "!") {
				continue // it takes away from the globs before it
			}
			dir, ok := strings.CutSuffix(strings.TrimPrefix(strings.Trim(glob, `"`), "**/"), "/*.go")
			if !ok {
				t.Fatalf("the glob %s is not of the form **/DIRECTORY/*.go", glob)
			}
			before, in, ok := strings.Cut(dir, "{")
			in, after, _ := strings.Cut(in, "}")
			if !ok {
				lists[dir]++
				continue
			}
			for name := range strings.SplitSeq(in, ",") {
				lists[before+name+after]++
			}
		}
	}
	rooms := map[string]bool{}
	for _, top := range []string{"agent", "userd", "dbus", "policy", "units", "cmd", "docs"} {
		eachImport(t, "../"+top, func(path, _ string) { rooms[strings.TrimPrefix(filepath.Dir(path), "../")] = true })
	}
	for _, shared := range []string{"agent/runs/conformance", "agent/services/conformance", "agent/store/storetest", "agent/lib/inotify/inotifytest", "dbus/bustest"} {
		if !rooms[shared] {
			t.Errorf("%s is not there", shared)
		}
		delete(rooms, shared) // for tests alone
	}
	for room := range rooms {
		if lists[room] != 1 {
			t.Errorf("%s has %d allow-lists, want 1", room, lists[room])
		}
	}
}
