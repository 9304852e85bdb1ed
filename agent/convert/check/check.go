// Package check finds the parts of a package that will not work on a machine: missing
// libraries, programs that name a path of their own prefix, missing interpreters and icons,
// desktop files that cannot be exported. It runs in the packager's command, as the packager.
//
// Words: the host is the machine's root file system. An own path is a directory or file of
// the package below a directory that all packages share, such as usr/share/thing.
//
// Files are read with bounds; no program of the package runs. The behaviour of a program at
// run time cannot be checked, so no finding is no proof. All is read within one call, which
// keeps no state.
package check

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/exports"
	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/manifest"
)

// Finding is a part of a package that will not work.
type Finding struct {
	Path string // in the package; lull.yaml for an error of its content
	Line int    // from 1; 0 means that it has no line
	Text string
}

func (f Finding) String() string {
	if f.Line > 0 {
		return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text)
	}
	return f.Path + ": " + f.Text
}

// The bounds of a check.
const (
	maxFile     = 512 << 20 // bytes of a file that is read
	maxFindings = 500
)

// checker checks one package.
type checker struct {
	root    *os.Root // of the package
	host    string   // directory of what programs find at /; "" if that is another package
	themes  string   // directory of the host's root, with its icons
	launch  *manifest.Launch
	files   map[string]fs.FileMode // regular files and symlinks of the package
	dirs    map[string]bool
	names   map[string]string // a path of each base name
	libs    []string          // directories of libraries of the host
	ways    map[string]bool   // directories of the package that programs search for libraries
	own     []string          // own paths, with a slash in front
	modules []string          // Python's that are not on the host
	loose   bool              // a script sets LD_LIBRARY_PATH
	list    []Finding
}

// Tree checks the package source in dir, whose lull.yaml has the content of launch, against
// the host whose root is the directory host. Findings are sorted.
func Tree(dir, host string, launch *manifest.Launch) ([]Finding, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	themes := host
	switch launch.Root {
	case "":
	case manifest.RootSelf:
		host = dir
	default:
		host = ""
	}
	c := &checker{root: root, host: host, themes: themes, launch: launch, files: map[string]fs.FileMode{}, dirs: map[string]bool{}, names: map[string]string{}, ways: map[string]bool{}}
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || p == ".":
			return err
		case d.IsDir():
			c.dirs[p] = true
			return nil
		case d.Type().IsRegular() || d.Type() == fs.ModeSymlink:
			fi, err := d.Info()
			if err != nil {
				return err
			}
			c.files[p], c.names[path.Base(p)] = fi.Mode(), p
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if host != "" {
		c.libs = hostLibraries(host)
	}
	c.ownPaths()
	paths := make([]string, 0, len(c.files))
	for p, mode := range c.files {
		if mode.IsRegular() && !documentation(p) {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	for _, look := range []func(string, []byte){c.collect, c.content} {
		for _, p := range paths {
			content, err := c.read(p)
			if err != nil {
				return nil, err
			}
			if content != nil {
				look(p, content)
			}
		}
	}
	c.apps()
	left, err := exports.Unexported(launch.Name, launch, dir)
	if err != nil {
		return nil, err
	}
	for _, l := range left {
		c.find(l.Path, 0, "it is not exported: %s", l.Why)
	}
	slices.SortStableFunc(c.list, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line)) })
	if len(c.list) > maxFindings {
		more := len(c.list) - maxFindings
		c.list = append(c.list[:maxFindings], Finding{Path: ".", Text: fmt.Sprintf("%d more findings", more)})
	}
	return c.list, nil
}

func (c *checker) find(p string, line int, format string, args ...any) {
	c.list = append(c.list, Finding{p, line, fmt.Sprintf(format, args...)})
}

// read returns the content of a file that may refer to others: a program, a library or a
// script. Nil means another type of file.
func (c *checker) read(p string) ([]byte, error) {
	f, err := c.root.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() < 4 || fi.Size() > maxFile {
		return nil, err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, err
	}
	if string(head) != elfMagic && string(head[:2]) != "#!" && !slices.Contains(code, path.Ext(p)) {
		return nil, nil
	}
	return c.root.ReadFile(p)
}

// code are the extensions of files that programs read as code.
var code = []string{".py", ".pl", ".pm", ".rb", ".lua", ".tcl", ".sh", ".conf", ".service"}

// documentation reports whether a file is for people only.
func documentation(p string) bool {
	for _, dir := range []string{"usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/lintian/", "usr/share/bug/"} {
		if strings.HasPrefix(p, dir) {
			return true
		}
	}
	return false
}

// collect is the first pass: it collects the directories of libraries.
func (c *checker) collect(p string, content []byte) {
	if string(content[:4]) != elfMagic {
		c.loose = c.loose || bytes.Contains(content, []byte("LD_LIBRARY_PATH"))
		return
	}
	f := parseELF(content)
	if f == nil {
		return
	}
	for _, dir := range f.ways {
		if in, ok := inside(p, dir); ok {
			c.ways[in] = true
		}
	}
}

// content is the second pass.
func (c *checker) content(p string, content []byte) {
	binary := string(content[:4]) == elfMagic
	if binary {
		f := parseELF(content)
		if f == nil {
			c.find(p, 0, "it is a damaged program or library")
			return
		}
		c.elf(p, f)
	} else if string(content[:2]) == "#!" {
		c.interpreter(p, content)
	}
	for _, own := range c.own {
		at := mention(content, own)
		if at < 0 {
			continue
		}
		line := 0
		if !binary {
			line = 1 + bytes.Count(content[:at], []byte("\n"))
		}
		c.find(p, line, "it names %s, which is in the package, and nothing is at that path on the machine", own)
	}
}

// mention returns the index of own as a whole path, not as a part of a longer one. -1 means
// that there is none.
func mention(content []byte, own string) int {
	for from := 0; ; {
		at := bytes.Index(content[from:], []byte(own))
		if at < 0 {
			return -1
		}
		at += from
		end := at + len(own)
		before := at == 0 || !word(content[at-1])
		if before && (end == len(content) || content[end] == '/' || !word(content[end])) {
			return at
		}
		from = end
	}
}

// word reports whether a byte can continue a name of a path. An absolute path has no such
// byte before its slash: $DIR/usr/share/x is relative.
func word(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("._-+}$", b) >= 0
}

// pythonModules is the directory of modules in packages of Debian.
const pythonModules = "usr/lib/python3/dist-packages"

// interpreter checks the first line of a script.
func (c *checker) interpreter(p string, content []byte) {
	if c.files[p]&0o111 == 0 {
		return // it is not started by its path
	}
	line, _, _ := bytes.Cut(content[2:min(len(content), 4096)], []byte("\n"))
	words := strings.Fields(string(line))
	if len(words) == 0 {
		return
	}
	if !strings.HasPrefix(words[0], "/") {
		c.find(p, 1, "its interpreter %s is no absolute path", words[0])
		return
	}
	if inside := strings.TrimPrefix(words[0], "/"); c.files[inside]&0o111 != 0 || c.files["usr/"+inside]&0o111 != 0 {
		return // the launcher finds it
	}
	if !c.onHost(words[0]) {
		c.find(p, 1, "its interpreter %s is not on this machine", words[0])
		return
	}
	if strings.Contains(string(line), "python") && !bytes.Contains(content, []byte("sys.path")) {
		for _, d := range c.modules {
			c.find(p, 1, "it may import %s, where Python does not look", d)
		}
	}
	if path.Base(words[0]) != "env" || c.launch.Root != "" {
		return
	}
	for _, w := range words[1:] {
		if strings.HasPrefix(w, "-") || strings.Contains(w, "=") {
			continue
		}
		if _, err := exec.LookPath(w); err != nil && !errors.Is(err, exec.ErrDot) {
			c.find(p, 1, "its interpreter %s is not on this machine", w)
		}
		return
	}
}

// onHost reports whether an absolute path is on the host, or may be in the runtime.
func (c *checker) onHost(p string) bool {
	if c.host == "" {
		return true
	}
	_, err := os.Stat(filepath.Join(c.host, p))
	return err == nil
}

// shared are the directories with own paths of packages.
var shared = []string{".", "opt", "etc", "usr/share", "usr/lib", "usr/libexec", "usr/local/share", "usr/local/lib", "usr/games", "usr/share/games", "usr/lib/*-linux-gnu*", "lib", "srv", "var/lib"}

// common are directories that belong to no package.
var common = []string{"bin", "sbin", "lib", "lib64", "opt", "etc", "usr", "srv", "var", "home", "root", "tmp", "run", "proc", "sys", "dev", "boot", "mnt", "media", "usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/share/games",
	"usr/share/applications", "usr/share/icons", "usr/share/pixmaps", "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/metainfo",
	"usr/share/appdata", "usr/share/dbus-1", "usr/share/glib-2.0", "usr/share/mime", "usr/share/bash-completion", "usr/share/zsh", "usr/share/fish", "usr/share/lintian",
	"usr/share/bug", "usr/share/menu", "usr/share/fonts", "usr/share/perl5", "usr/share/java", "usr/share/polkit-1", "usr/lib/python3", "usr/lib/systemd", "usr/lib/pkgconfig", "usr/lib/debug",
	"etc/init.d", "etc/default", "etc/xdg", "etc/cron.d", "etc/cron.daily", "etc/logrotate.d", "etc/apt", "etc/dbus-1"}

func matches(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { ok, _ := path.Match(pattern, p); return ok })
}

// listed returns the directories of the package in a list of its environment.
func (c *checker) listed(name string) (dirs []string) {
	v := c.launch.Environment[name]
	for _, text := range slices.Concat(v.Prepend, v.Append, strings.Split(v.Value, ":")) {
		if dir, ok := strings.CutPrefix(text, "${"+manifest.PlacePackage+"}/"); ok {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// ownPaths collects the own directories, unless the host has them, too.
func (c *checker) ownPaths() {
	for d := range c.dirs {
		if _, there := c.launch.Layout["/"+d]; there {
			continue
		}
		hidden := c.host == "" || !c.onHost("/"+d)
		if matches(shared, path.Dir(d)) && !matches(common, d) && path.Dir(d) != "." && hidden {
			c.own = append(c.own, "/"+d)
		}
		if path.Dir(d) == pythonModules && hidden && !strings.HasSuffix(d, "-info") && !slices.Contains(c.listed("PYTHONPATH"), pythonModules) {
			c.modules = append(c.modules, d)
		}
	}
	slices.Sort(c.modules)
	slices.Sort(c.own)
}

// apps checks the files that lull.yaml names.
func (c *checker) apps() {
	const source = "lull.yaml"
	switch icon := c.launch.Icon; {
	case icon == "" && slices.ContainsFunc(c.launch.Apps, func(a manifest.App) bool { return a.Desktop != "" }):
		c.find(source, 0, "there is no icon; the key icon names one")
	case icon != "":
		c.icon(source, 0, icon)
	}
	for _, a := range c.launch.Apps {
		if a.Desktop == "" {
			continue
		}
		content, err := c.root.ReadFile(a.Desktop)
		var f *desktopentry.File
		if err == nil {
			f, err = desktopentry.Parse(content, desktopentry.Main)
		}
		if err == nil {
			err = f.CheckApplication()
		}
		if err != nil {
			c.find(a.Desktop, 0, "it cannot be exported: %s", err)
			continue
		}
		if icon := f.Value(desktopentry.Main, "Icon"); icon != "" && icon != c.launch.Icon {
			c.icon(a.Desktop, lineOf(content, "Icon"), icon)
		}
		first := ""
		find := func(program string) (string, error) { first = cmp.Or(first, program); return program, nil }
		err = f.RewriteExec(desktopentry.Programs{Find: find, Named: find})
		if err != nil {
			c.find(a.Desktop, lineOf(content, "Exec"), "its Exec cannot be rewritten: %s", err)
		}
	}
}

// lineOf returns the number of the first line with a key.
func lineOf(content []byte, key string) int {
	for i, l := range bytes.Split(content, []byte("\n")) {
		name, _, ok := bytes.Cut(l, []byte("="))
		if ok && string(bytes.TrimSpace(name)) == key {
			return i + 1
		}
	}
	return 0
}

// icon checks that an icon is in the package, or in a theme.
func (c *checker) icon(p string, line int, icon string) {
	if inside, absolute := strings.CutPrefix(icon, "/"); absolute || strings.Contains(icon, "/") {
		if _, ok := c.files[inside]; !ok {
			c.find(p, line, "the icon %s is not in the package", icon)
		}
		return
	}
	for _, ext := range []string{".svg", ".png", ".xpm"} {
		icon := strings.TrimSuffix(icon, ext)
		if _, ok := c.names[icon+ext]; ok {
			return
		}
		for _, where := range []string{"pixmaps", "icons/hicolor/*/apps", "icons/*/*/apps", "icons/*/apps/*"} {
			if found, _ := filepath.Glob(filepath.Join(c.themes, "usr/share", where, icon+ext)); found != nil {
				return
			}
		}
	}
	c.find(p, line, "the icon %s is neither in the package nor in a theme of this machine", icon)
}
