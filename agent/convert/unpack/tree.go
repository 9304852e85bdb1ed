package unpack

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/manifest"
)

// The bounds of a tree, beside those of package convert.
const (
	maxDepth     = 128
	maxPath      = 2048
	maxComponent = 255
	maxTarget    = 4096
	maxRemarks   = 200
	maxKept      = 1 << 20  // bytes of one file in memory
	maxKeptAll   = 64 << 20 // bytes of all of them
)

// Node is an entry of a tree.
type Node struct {
	convert.Entry
	Size int64
	Kept []byte // the content of a file that describes the package, or nil

	implied bool // a directory without an entry of its own
}

// Tree collects the entries of a package.
type Tree struct {
	Nodes   map[string]*Node
	Scripts []string
	Needs   []string          // dependencies of Debian packages, also those on each other
	Control map[string]string // of the first Debian package; nil without one
	App     *Node             // the AppRun of an AppImage, or nil
	Chosen  string            // the desktop file of an AppImage, a path
	Image   *Image            // the settings of a container image, or nil
	// Mentions are absolute paths below /usr, /opt and /etc in programs, libraries and scripts.
	Mentions map[string]bool

	packages []string // names of the Debian packages, and what they provide

	*account
}

// account is what a tree and the layers below it share.
type account struct {
	out     *convert.Writer
	limits  Limits
	bytes   int64
	kept    int64
	remarks []string
	omitted int // remarks beyond maxRemarks
}

// Limits bound a tree.
type Limits struct {
	Bytes   int64
	Entries int
}

// DefaultLimits are those that the receiver enforces, too.
var DefaultLimits = Limits{Bytes: convert.MaxBytes, Entries: convert.MaxEntries}

// NewTree returns an empty tree whose contents go to out.
func NewTree(out *convert.Writer, l Limits) *Tree {
	return &Tree{Nodes: map[string]*Node{}, Mentions: map[string]bool{}, account: &account{out: out, limits: l}}
}

// Remark adds a line for people.
func (t *Tree) Remark(format string, args ...any) {
	if len(t.remarks) == maxRemarks {
		t.omitted++
		return
	}
	t.remarks = append(t.remarks, fmt.Sprintf(format, args...))
}

// Remarks returns the lines for people, sorted.
func (t *Tree) Remarks() []string {
	list := slices.Sorted(slices.Values(t.remarks))
	if t.omitted > 0 {
		list = append(list, fmt.Sprintf("%d more remarks", t.omitted))
	}
	return list
}

// clean checks a name of an archive and returns the path in the package; "" is the root.
func clean(name string) (string, error) {
	bad := func(why string) (string, error) { return "", fmt.Errorf("the path %.300q %s", name, why) }
	switch {
	case !utf8.ValidString(name):
		return bad("is not UTF-8")
	case len(name) > maxPath:
		return bad("is too long")
	case strings.HasPrefix(name, "/"):
		return bad("is absolute")
	case strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return bad("has a control character")
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return bad("leads out of the package")
		case len(part) > maxComponent:
			return bad("has a component that is too long")
		}
		parts = append(parts, part)
	}
	if len(parts) > maxDepth {
		return bad("is too deep")
	}
	if len(parts) > 0 && parts[0] == manifest.Reserved {
		return bad("is reserved")
	}
	return strings.Join(parts, "/"), nil
}

// add puts a node into the tree. An existing directory remains unchanged.
func (t *Tree) add(name string, n *Node) error {
	p, err := clean(name)
	if err != nil {
		return err
	}
	if p == "" {
		if n.Type == manifest.TypeDir {
			return nil
		}
		return fmt.Errorf("the path %.300q names no file", name)
	}
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		switch up := t.Nodes[dir]; {
		case up == nil:
			t.Nodes[dir] = &Node{Entry: convert.Entry{Path: dir, Type: manifest.TypeDir}, implied: true}
		case up.Type == manifest.TypeSymlink:
			return fmt.Errorf("the path %.300q is below the symlink %q", p, dir)
		case up.Type != manifest.TypeDir:
			return fmt.Errorf("the path %.300q is below the file %q", p, dir)
		}
	}
	old := t.Nodes[p]
	switch {
	case old == nil:
	case old.Type == manifest.TypeDir && n.Type == manifest.TypeDir:
		old.implied = old.implied && n.implied
		return nil
	case old.Type == manifest.TypeDir || n.Type == manifest.TypeDir:
		return fmt.Errorf("the path %.300q is there twice, and only one of them is a directory", p)
	default:
		t.Remark("%s: it is there twice; the last one counts", p)
		t.kept -= int64(len(old.Kept))
	}
	n.Path = p
	t.Nodes[p] = n
	if len(t.Nodes) > t.limits.Entries {
		return fmt.Errorf("it has more than %d entries", t.limits.Entries)
	}
	return nil
}

// Dir adds a directory.
func (t *Tree) Dir(name string) error {
	return t.add(name, &Node{Entry: convert.Entry{Type: manifest.TypeDir}})
}

// Symlink adds a symlink. Its target is checked at the end.
func (t *Tree) Symlink(name, target string) error {
	if !utf8.ValidString(target) || target == "" || len(target) > maxTarget {
		return fmt.Errorf("the symlink %.300q has an unusable target", name)
	}
	return t.add(name, &Node{Entry: convert.Entry{Type: manifest.TypeSymlink, Symlink: target}})
}

// Link adds another name of a file or symlink of the tree.
func (t *Tree) Link(name, target string) error {
	p, err := clean(target)
	if err != nil {
		return fmt.Errorf("the hard link %.300q: %w", name, err)
	}
	n := t.Nodes[p]
	if n == nil || n.Content == 0 && n.Type != manifest.TypeSymlink {
		return fmt.Errorf("the hard link %.300q leads to %.300q, which is no file before it", name, p)
	}
	same := *n
	t.kept += int64(len(same.Kept)) // add takes it away again with each node that is replaced
	return t.add(name, &same)
}

// File adds a regular file and sends its content.
func (t *Tree) File(name string, mode fs.FileMode, size int64, r io.Reader) error {
	p, err := clean(name)
	if err != nil {
		return err
	}
	if size < 0 || size > t.limits.Bytes-t.bytes {
		return fmt.Errorf("it has more than %d bytes of content, with %.300q", t.limits.Bytes, p)
	}
	t.bytes += size
	if mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		t.Remark("%s: its set-user-id and set-group-id bits are dropped", p)
	}
	n := &Node{Entry: convert.Entry{Exec: mode&0o111 != 0}, Size: size}
	var keep bytes.Buffer
	if describes(p) && size <= maxKept && t.kept+size <= maxKeptAll {
		r = io.TeeReader(r, &keep)
	}
	found := t.mentionsIn(p)
	if n.Content, err = t.out.Content(io.TeeReader(r, found), size); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	found.end()
	if keep.Len() > 0 {
		n.Kept = keep.Bytes()
		t.kept += size
	}
	return t.add(p, n)
}

// Other leaves out an entry that no package may have.
func (t *Tree) Other(name, what string) error {
	p, err := clean(name)
	if err == nil {
		t.Remark("%s: it is a %s and is left out", p, what)
	}
	return err
}

// describes reports whether a file has metadata of the package.
func describes(p string) bool {
	dir, base := path.Dir(p), path.Base(p)
	switch {
	case strings.HasSuffix(base, ".desktop"):
		return dir == "." || strings.HasSuffix(dir, "share/applications") || strings.HasSuffix(dir, "xdg/autostart")
	case strings.HasSuffix(base, ".metainfo.xml"), strings.HasSuffix(base, ".appdata.xml"):
		return true
	case strings.HasPrefix(base, "changelog.Debian"), base == "copyright" && strings.HasPrefix(dir, "usr/share/doc/"):
		return true
	case strings.HasSuffix(base, ".service"):
		return strings.Contains(dir, "systemd/") || strings.HasSuffix(dir, "dbus-1/services")
	}
	return false
}

// Finish runs the checks that need the whole tree: of the symlinks, and of names that differ
// by case.
func (t *Tree) Finish() {
	lower := map[string]string{}
	for _, p := range t.Paths() {
		n := t.Nodes[p]
		if twin, ok := lower[strings.ToLower(p)]; ok {
			t.Remark("%s: its name differs from %s by case only", p, twin)
		}
		lower[strings.ToLower(p)] = p
		if n.Type != manifest.TypeSymlink {
			continue
		}
		if inside, ok := strings.CutPrefix(n.Symlink, "/"); ok {
			to, err := clean(inside)
			if up := t.Resolve(path.Dir(to)); up != nil { // as in /lib, which is a symlink
				to = path.Join(up.Path, path.Base(to))
			}
			if err == nil && t.Nodes[to] != nil {
				n.Symlink = relative(path.Dir(p), to)
				continue
			}
		} else if to := path.Join(path.Dir(p), n.Symlink); to != ".." && !strings.HasPrefix(to, "../") {
			continue
		}
		t.Remark("%s: the symlink leads out of the package, to %.200q, and is left out", p, n.Symlink)
		delete(t.Nodes, p)
	}
}

// relative returns the path from a directory of the package to a path of it.
func relative(dir, to string) string {
	var from []string
	if dir != "." {
		from = strings.Split(dir, "/")
	}
	parts := strings.Split(to, "/")
	for len(from) > 0 && len(parts) > 1 && from[0] == parts[0] {
		from, parts = from[1:], parts[1:]
	}
	return strings.Repeat("../", len(from)) + strings.Join(parts, "/")
}

// Paths lists the paths of the tree, sorted.
func (t *Tree) Paths() []string {
	list := make([]string, 0, len(t.Nodes))
	for p := range t.Nodes {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}

// Resolve follows symlinks from a path of the tree to a file or directory. Nil means that the
// target is missing.
func (t *Tree) Resolve(p string) *Node {
	for range 40 { // as ELOOP in path_resolution(7)
		p = path.Clean(p)
		n := t.Nodes[p]
		if n == nil {
			up := path.Dir(p)
			if up == "." || up == "/" || up == ".." {
				return nil
			}
			dir := t.Resolve(up)
			if dir == nil || dir.Path == up {
				return nil
			}
			p = path.Join(dir.Path, path.Base(p))
			continue
		}
		if n.Type != manifest.TypeSymlink {
			return n
		}
		if inside, ok := strings.CutPrefix(n.Symlink, "/"); ok {
			p = inside
		} else {
			p = path.Join(path.Dir(p), n.Symlink)
		}
	}
	return nil
}

// Inline replaces a symlink by a copy of the file or directory that it leads to, which takes no
// space in a store. It reports whether it could.
func (t *Tree) Inline(p string) bool {
	to := t.Resolve(p)
	if to == nil || p == to.Path || strings.HasPrefix(p, to.Path+"/") {
		return false
	}
	copies := map[string]*Node{p: to}
	if to.Type == manifest.TypeDir {
		for q := range t.Nodes {
			if rest, ok := strings.CutPrefix(q, to.Path+"/"); ok {
				copies[p+"/"+rest] = t.Nodes[q]
			}
		}
	}
	if len(t.Nodes)+len(copies) > t.limits.Entries {
		return false
	}
	for at, n := range copies {
		same := *n
		if same.Type == manifest.TypeSymlink {
			same.Symlink = relative(path.Dir(at), path.Join(path.Dir(n.Path), n.Symlink))
		}
		same.Path, same.Kept = at, nil // it describes the package where it was
		t.Nodes[at] = &same
	}
	return true
}

// Entries returns the entries of the package: files and symlinks, and empty directories.
func (t *Tree) Entries() []convert.Entry {
	full := map[string]bool{}
	for p := range t.Nodes {
		full[path.Dir(p)] = true
	}
	var list []convert.Entry
	for _, p := range t.Paths() {
		if n := t.Nodes[p]; n.Type != manifest.TypeDir || !full[p] {
			list = append(list, n.Entry)
		}
	}
	return list
}
