package launch

import (
	"bufio"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// layoutProgram is the program that mounts a layout, beside this one; cmd/lull-layout
// describes its operations.
const layoutProgram = "lull-layout"

// inPlace returns the command that mounts the package's root and layout and executes path with
// argv. The parts of the package are bind mounts: processes use the same inodes as without a
// layout, so that vacancy, strays and `lull why` find them. Only the empty directories to
// mount them at, which the host lacks, come from an overlay over the directory around them.
func (l *launch) inPlace(path string, argv []string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	helper := filepath.Join(filepath.Dir(self), layoutProgram)
	if _, err := os.Stat(helper); err != nil {
		return nil, errkind.New(errkind.Unavailable, "it has a layout or a root, and %s is missing: %w", helper, err)
	}
	var operations []string
	if l.root == "" {
		var mounts []byte
		if mounts, err = os.ReadFile("/proc/self/mountinfo"); err != nil {
			return nil, err
		}
		operations, err = layoutOperations(l.layout, l.dirOf(l.ran), mountPoints(string(mounts)))
	} else {
		operations, err = l.rootOperations()
	}
	if err != nil {
		return nil, err
	}
	inside := l.inRoot(path)
	if argv[0] == path {
		argv[0] = inside
	}
	return slices.Concat([]string{helper, l.Instance}, operations, []string{"--", inside}, argv), nil
}

// missing are the paths of a layout that are not in a tree, below the nearest directory
// that is.
type missing struct {
	dir   string            // without symlinks
	paths map[string]string // relative to dir; "dir" or "file"
}

// maxEntries bounds the files of a directory that are bound one by one: the scratch has room
// for so many, and the command line.
const maxEntries = 3000

// layoutOperations lists the operations of lull-layout. mounted are the mount points of the
// host.
func layoutOperations(layout map[string]string, packageDir string, mounted []string) ([]string, error) {
	t := &tree{dir: "/", shown: "/", mounted: mounted}
	merges, made, binds, err := t.show(parts(layout, packageDir))
	if err == nil && len(made) > 0 {
		scratch := filepath.Join(packageDir, manifest.Reserved)
		made = slices.Concat([]string{"scratch", scratch}, made, []string{"done", scratch})
	}
	return slices.Concat(merges, made, binds), err
}

// parts are the paths of a layout, and what is shown there.
func parts(layout map[string]string, packageDir string) map[string]string {
	all := make(map[string]string, len(layout))
	for at, part := range layout {
		all[at] = filepath.Join(packageDir, part)
	}
	return all
}

// tree is what programs find at /: the files of the host, or those of a runtime.
type tree struct {
	dir     string   // where its files are now, without symlinks
	shown   string   // where the operations find it: / or the directory that they are in
	pad     string   // directory for scratch directories, relative to that
	mounted []string // mount points in it
}

// show lists the operations that show parts in a tree: overlays over directories that are
// there, the places that are missing, and bind mounts. The package's files in a merged directory have
// other inodes there, so such directories have no programs.
func (t *tree) show(parts map[string]string) (merges, made, binds []string, err error) {
	places := map[string]*missing{}
	parts, merging, err := t.spread(parts)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, at := range slices.Sorted(maps.Keys(parts)) {
		part := parts[at]
		fi, err := os.Stat(part)
		if err != nil {
			return nil, nil, nil, unread(err)
		}
		kind := map[bool]string{true: "dir", false: "file"}[fi.IsDir()]
		shown := filepath.Join(t.shown, at)
		switch on, err := os.Stat(filepath.Join(t.dir, at)); {
		case err == nil && on.IsDir() != fi.IsDir():
			return nil, nil, nil, errkind.New(errkind.Failed, "its layout has a %s at %s, where this machine has none", kind, at)
		case err == nil && merging[at]:
			if strings.ContainsAny(part, `,:\`) {
				return nil, nil, nil, errkind.New(errkind.Failed, "its layout cannot be mounted: the path %s has ',', ':' or '\\'", part)
			}
			// An overlay over the directory around it, below, would hide this mount.
			merges, t.mounted = append(merges, "merge", part, shown), append(t.mounted, at)
			continue
		case err == nil:
			binds = append(binds, "bind", part, shown)
			continue
		case !errors.Is(err, fs.ErrNotExist):
			return nil, nil, nil, errkind.New(errkind.Failed, "its layout cannot be mounted: %w", err)
		}
		binds = append(binds, "bind", part, shown)
		dir, rest := filepath.Dir(at), filepath.Base(at)
		for {
			if _, err := os.Stat(filepath.Join(t.dir, dir)); err == nil || dir == "/" {
				break
			}
			dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest)
		}
		if dir, err = t.resolve(dir); err != nil {
			return nil, nil, nil, errkind.New(errkind.Failed, "its layout cannot be mounted: %w", err)
		}
		if dir == "/" && t.shown == "/" || strings.ContainsAny(dir, `,:\`) {
			return nil, nil, nil, errkind.New(errkind.Failed, "its layout cannot be mounted: nothing can be added to %s for %s", dir, at)
		}
		if places[dir] == nil {
			places[dir] = &missing{dir, map[string]string{}}
		}
		places[dir].paths[rest] = kind
	}
	made, err = t.make(outermost(places))
	return merges, made, binds, err
}

// spread returns parts with the entries of each directory that merges and has a mount below it,
// in place of that directory, and which of them merge: an overlay over it is refused by the
// kernel, one over a directory in it is not.
func (t *tree) spread(parts map[string]string) (all map[string]string, merging map[string]bool, err error) {
	all, merging = map[string]string{}, map[string]bool{}
	var add func(at, part string, merge bool) error
	add = func(at, part string, merge bool) error {
		dir, err := t.resolve(at)
		if !merge || err != nil || !t.mountBelow(dir) {
			all[at], merging[at] = part, merge
			return nil // show reports an error of the tree
		}
		entries, err := os.ReadDir(part)
		if err != nil {
			return unread(err)
		}
		for _, e := range entries {
			at, part := filepath.Join(at, e.Name()), filepath.Join(part, e.Name())
			fi, err := os.Stat(part)
			if errors.Is(err, fs.ErrNotExist) {
				continue // a symlink to nothing
			}
			if err != nil {
				return unread(err)
			}
			on, err := os.Stat(filepath.Join(t.dir, at))
			if err := add(at, part, err == nil && fi.IsDir() && on.IsDir()); err != nil {
				return err
			}
		}
		return nil
	}
	for at, part := range parts {
		if manifest.AddsLayout(at) {
			err = t.lacking(at, part, all)
		} else {
			err = add(at, part, manifest.MergesLayout(at))
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return all, merging, nil
}

// lacking adds the part of the package at a path, or what is in it, to all, where the tree has
// nothing.
func (t *tree) lacking(at, part string, all map[string]string) error {
	fi, err := os.Stat(part)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a symlink to nothing
	}
	if err != nil {
		return unread(err)
	}
	there := filepath.Join(t.dir, at)
	if _, err := os.Lstat(there); errors.Is(err, fs.ErrNotExist) {
		all[at] = part
		return nil
	}
	if on, err := os.Stat(there); err != nil || !on.IsDir() || !fi.IsDir() {
		return nil // the host's counts, also one that this user cannot read
	}
	entries, err := os.ReadDir(part)
	if err != nil {
		return unread(err)
	}
	for _, e := range entries {
		if err := t.lacking(filepath.Join(at, e.Name()), filepath.Join(part, e.Name()), all); err != nil {
			return err
		}
	}
	return nil
}

// mountBelow reports whether a file system is mounted below a directory, not at it.
func (t *tree) mountBelow(dir string) bool {
	return slices.ContainsFunc(t.mounted, func(point string) bool { return strings.HasPrefix(point, dir+"/") })
}

// resolve returns the path of a directory in the tree without symlinks. Those at the top of a package
// that is tried lead to a directory elsewhere, which is bound.
func (t *tree) resolve(dir string) (string, error) {
	full, err := filepath.EvalSymlinks(filepath.Join(t.dir, dir))
	if err != nil || t.dir == "/" {
		return full, err
	}
	if rest, inside := strings.CutPrefix(full+"/", t.dir+"/"); inside {
		return filepath.Join("/", rest), nil
	}
	top, err := filepath.EvalSymlinks(filepath.Join(t.dir, topOf(dir)))
	return filepath.Join("/", topOf(dir), strings.TrimPrefix(full, top)), err
}

// outermost merges places that are below others: an overlay merges directories at any depth,
// and one overlay on another may be more than the kernel stacks.
func outermost(places map[string]*missing) (list []*missing) {
	for _, dir := range slices.Sorted(maps.Keys(places)) { // a directory before those below it
		p := places[dir]
		i := slices.IndexFunc(list, func(m *missing) bool { return strings.HasPrefix(dir, m.dir+"/") })
		if i < 0 {
			list = append(list, p)
			continue
		}
		rest := strings.TrimPrefix(dir, list[i].dir+"/")
		for path, kind := range p.paths {
			list[i].paths[filepath.Join(rest, path)] = kind
		}
	}
	return list
}

// make lists the operations that make places in scratch directories and add them to the
// directories of the tree.
func (t *tree) make(list []*missing) (operations []string, err error) {
	for i, m := range list {
		top := filepath.Join(t.pad, strconv.Itoa(i))
		if m.dir == "/" {
			top = "." // of a runtime: that directory is the scratch itself
		}
		made := map[string]bool{".": true}
		mkdir := func(dir string) {
			for _, d := range above(dir) {
				if d = filepath.Join(top, d); !made[d] {
					made[d] = true
					operations = append(operations, "dir", d)
				}
			}
		}
		mkdir(".")
		for _, path := range slices.Sorted(maps.Keys(m.paths)) {
			if m.paths[path] == "dir" {
				mkdir(path)
				continue
			}
			mkdir(filepath.Dir(path))
			operations = append(operations, "file", filepath.Join(top, path))
		}
		shown := filepath.Join(t.shown, m.dir)
		switch {
		case m.dir == "/":
		case m.dir == etc || strings.HasPrefix(m.dir, etc+"/"):
			entries, err := t.linked(m.dir, top, made)
			if err != nil {
				return nil, err
			}
			operations = slices.Concat(operations, entries, []string{"bind", top, shown, "protect", shown})
		case t.mountBelow(m.dir):
			entries, err := t.assemble(m.dir, top, made)
			if err != nil {
				return nil, err
			}
			operations = slices.Concat(operations, entries, []string{"bind", top, shown, "protect", shown})
		default:
			operations = append(operations, "merge", top, shown)
		}
	}
	return operations, nil
}

// assemble lists the operations that bind the entries of a directory into one in a scratch, in
// which made are the directories. It takes the place of an overlay where a file system is
// mounted below the directory: the kernel lets no user make an overlay over what that hides.
func (t *tree) assemble(dir, top string, made map[string]bool) (operations []string, err error) {
	count := 0
	var fill func(rel string) error
	fill = func(rel string) error {
		entries, err := os.ReadDir(filepath.Join(t.dir, dir, rel))
		if err != nil {
			return errkind.New(errkind.Failed, "its layout cannot be mounted: %w", err)
		}
		if count += len(entries); count > maxEntries {
			return errkind.New(errkind.Failed, "its layout cannot be mounted: a file system is mounted below %s, and more than %d files are in it", dir, maxEntries)
		}
		for _, e := range entries {
			path := filepath.Join(rel, e.Name())
			from, at := filepath.Join(t.shown, dir, path), filepath.Join(top, path)
			kind := "file"
			switch {
			case made[at]:
				if err := fill(path); err != nil {
					return err
				}
				continue
			case e.Type() == fs.ModeSymlink:
				target, err := os.Readlink(filepath.Join(t.dir, dir, path))
				if err != nil {
					return errkind.New(errkind.Failed, "its layout cannot be mounted: %w", err)
				}
				operations = append(operations, "link", target, at)
				continue
			case e.IsDir():
				kind = "dir"
			}
			operations = append(operations, kind, at, "bind", from, at)
		}
		return nil
	}
	err = fill(".")
	return operations, err
}

// The directory of configuration, and where in a directory that is linked its files are.
const (
	etc      = "/etc"
	etcFiles = ".lull"
)

// linked lists the operations that link the entries of a directory of configuration from one in
// a scratch, in which made are the directories. Files there are replaced while programs run, as
// resolv.conf, and an overlay or a bind mount would show the former ones.
func (t *tree) linked(dir, top string, made map[string]bool) (operations []string, err error) {
	files := filepath.Join(top, etcFiles)
	operations = []string{"dir", files, "bind", filepath.Join(t.shown, dir), files}
	var fill func(rel string) error
	fill = func(rel string) error {
		entries, err := os.ReadDir(filepath.Join(t.dir, dir, rel))
		if err != nil {
			return errkind.New(errkind.Failed, "its layout cannot be mounted: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(rel, e.Name())
			at := filepath.Join(top, path)
			if made[at] {
				if err := fill(path); err != nil {
					return err
				}
				continue
			}
			target := filepath.Join(dir, etcFiles, path)
			if e.Type() == fs.ModeSymlink { // programs read the time zone's name from one
				if target, err = os.Readlink(filepath.Join(t.dir, dir, path)); err != nil {
					return errkind.New(errkind.Failed, "its layout cannot be mounted: %w", err)
				}
			}
			operations = append(operations, "link", target, at)
		}
		return nil
	}
	err = fill(".")
	return operations, err
}

// above lists a relative directory and those above it, the uppermost first.
func above(dir string) (list []string) {
	for ; dir != "."; dir = filepath.Dir(dir) {
		list = append(list, dir)
	}
	list = append(list, ".")
	slices.Reverse(list)
	return list
}

// mountPoints reads the mount points of proc_pid_mountinfo(5), sorted, each once.
func mountPoints(text string) (points []string) {
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			points = append(points, unescaped(fields[4]))
		}
	}
	slices.Sort(points)
	return slices.Compact(points)
}

// unescaped replaces the octal numbers of spaces, tabs, newlines and backslashes.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
