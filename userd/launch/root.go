package launch

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/manifest"
)

// hostRoot is where programs in a runtime find the root directory of the host.
const hostRoot = ".host"

// Entries of / that are always those of the host, and those that never are.
var (
	hostDirs   = []string{"dev", "home", "media", "mnt", "proc", "root", "run", "sys", "tmp", "var"}
	systemDirs = []string{"bin", "boot", "etc", "lib", "lib32", "lib64", "libx32", "lost+found", "sbin", "usr"}
)

// hostFiles are the files in /etc that are those of the host: users, names and addresses, the
// identity and the time zone of the machine. Symlinks lead to them, so that a file that the
// host replaces is the new one here, too.
var hostFiles = []string{
	"gai.conf", "group", "host.conf", "hostname", "hosts", "machine-id", "nsswitch.conf", "passwd", "resolv.conf", "timezone",
}

// Directories of the host that are shown in a runtime, if the directory above them is there: fonts and
// time zones replace those of the runtime, themes are added to them. A theme of the runtime stays, as the
// icons of its programs are in one.
var (
	hostParts  = []string{"/usr/local/share/fonts", "/usr/share/fonts", zones}
	hostThemes = []string{"/usr/share/color-schemes", "/usr/share/icons", "/usr/share/Kvantum", "/usr/share/sounds", "/usr/share/themes"}
)

// The directories of time zones, and of the locales of glibc.
const (
	zones   = "/usr/share/zoneinfo"
	locales = "/usr/lib/locale"
)

// inRoot returns the path of a program as it is in the package's root.
func (l *launch) inRoot(path string) string {
	rest, inside := strings.CutPrefix(path, l.root+"/")
	if l.root == "" || !inside || strings.HasPrefix(rest, manifest.Reserved+"/") {
		return path
	}
	return "/" + rest
}

// rootOperations lists the operations of lull-layout that show the files of a runtime at /,
// with the host's directories of users, devices and sockets, and the package's layout.
//
// The scratch that becomes the root is mounted over /etc until then: that directory is not
// bound, so that no copy of the scratch is in what is.
func (l *launch) rootOperations() (operations []string, err error) {
	dir, err := filepath.EvalSymlinks(l.root)
	if err != nil {
		return nil, unread(err)
	}
	own, err := readNames(dir)
	if err != nil {
		return nil, unread(err)
	}
	host, err := readNames("/")
	if err != nil {
		return nil, err
	}
	// Where the store and the user's files are, the host's files are needed in any case.
	kept := slices.Concat(hostDirs, []string{topOf(l.Root), topOf(os.Getenv("HOME"))})
	places := parts(l.layout, l.dirOf(l.ran))
	operations = []string{"scratch", "/etc", "dir", hostRoot}
	bind := func(from, name string) error {
		fi, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // a symlink to nothing, or a directory that this user cannot enter
		}
		if err == nil && fi.IsDir() {
			operations = append(operations, "dir", name, "bind", from, name)
		}
		return err
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(own, host)))) {
		mine := slices.Contains(own, name) && !slices.Contains(kept, name)
		// A directory that is empty in the runtime, as /srv, is a place for the host's.
		laid := slices.ContainsFunc(slices.Collect(maps.Keys(places)), func(at string) bool { return topOf(at) == name })
		if mine && !laid && !slices.Contains(systemDirs, name) && slices.Contains(host, name) {
			inside, err := readNames(filepath.Join(dir, name))
			mine = err != nil || len(inside) > 0
		}
		switch {
		case name == hostRoot, name == driverDir, name == manifest.Reserved, slices.Contains(host, name) && slices.Contains(systemDirs, name) && !mine:
		case mine:
			if target, err := os.Readlink(filepath.Join(dir, name)); err == nil && !filepath.IsAbs(target) {
				operations = append(operations, "link", target, name)
				continue
			}
			err = bind(filepath.Join(dir, name), name)
		case !laid || slices.Contains(kept, name):
			err = bind("/"+name, name)
		}
		if err != nil {
			return nil, unread(err)
		}
	}
	for at, from := range hostPlaces(dir) {
		if _, both := places[at]; !both {
			places[at] = from
		}
	}
	t := &tree{dir: dir, shown: ".", pad: hostRoot}
	configuration := map[string]string{}
	for at, part := range places {
		if manifest.AddsLayout(at) {
			if err := t.lacking(at, part, configuration); err != nil {
				return nil, err
			}
			delete(places, at)
		}
	}
	merges, made, binds, err := t.show(places)
	return slices.Concat(operations, driverOperations(), inEtc(slices.Contains(own, "etc"), places[zones] == zones, configuration), merges, made, binds, []string{"pivot", hostRoot}), err
}

// inEtc lists the operations that put the host's files and parts of the package into /etc. there
// reports whether the runtime has that directory, and zoned whether the host's time zones are at
// their place.
func inEtc(there, zoned bool, parts map[string]string) (operations []string) {
	made := filepath.Join(hostRoot, "etc")
	operations = []string{"dir", made}
	dirs := map[string]bool{}
	link := func(target, at string) {
		for _, dir := range above(filepath.Dir(strings.TrimPrefix(at, etc+"/"))) {
			if dir != "." && !dirs[dir] {
				dirs[dir] = true
				operations = append(operations, "dir", filepath.Join(made, dir))
			}
		}
		operations = append(operations, "link", target, filepath.Join(hostRoot, at))
	}
	for _, at := range slices.Sorted(maps.Keys(parts)) {
		link(parts[at], at)
	}
	for _, name := range hostFiles {
		operations = append(operations, "link", filepath.Join("/", hostRoot, "etc", name), filepath.Join(made, name))
	}
	// Programs read the name of the time zone from the target of this symlink.
	zone, err := os.Readlink("/etc/localtime")
	if err != nil || !zoned {
		zone = filepath.Join("/", hostRoot, "etc/localtime")
	}
	operations = append(operations, "link", zone, filepath.Join(made, "localtime"))
	if _, err := os.Stat(openCL); err == nil {
		link(filepath.Join("/", hostRoot, openCL), openCL)
	}
	if !there {
		operations = append(operations, "dir", "etc")
	}
	return append(operations, "merge", made, "etc")
}

// hostPlaces returns the directories of the host in the runtime in dir.
func hostPlaces(dir string) map[string]string {
	places := map[string]string{}
	isDir := func(path string) bool { fi, err := os.Stat(path); return err == nil && fi.IsDir() }
	for _, at := range hostParts {
		if isDir(at) && isDir(filepath.Join(dir, filepath.Dir(at))) {
			places[at] = at
		}
	}
	for _, at := range hostThemes {
		if isDir(filepath.Join(dir, at)) {
			addEntries(places, dir, at)
		} else if isDir(at) && isDir(filepath.Join(dir, filepath.Dir(at))) {
			places[at] = at
		}
	}
	// A runtime with locales of its own has those of its C library, and the host's others.
	inside, err := readNames(filepath.Join(dir, locales))
	if err == nil && !slices.ContainsFunc(inside, func(name string) bool { return !strings.HasPrefix(name, "C.") }) && isDir(locales) {
		places[locales] = locales
	} else if err == nil {
		addEntries(places, dir, locales)
	}
	maps.Copy(places, driverPlaces(dir))
	return places
}

// addEntries adds the entries of a directory of the host that the runtime in dir lacks there.
func addEntries(places map[string]string, dir, at string) {
	names, err := readNames(at)
	if err != nil {
		return // the host has none
	}
	for _, name := range names {
		path := filepath.Join(at, name)
		if _, err := os.Lstat(filepath.Join(dir, path)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if fi, err := os.Stat(path); err == nil && (fi.IsDir() || fi.Mode().IsRegular()) {
			places[path] = path
		}
	}
}

// topOf returns the first component of an absolute path.
func topOf(path string) string {
	top, _, _ := strings.Cut(strings.TrimPrefix(filepath.Clean(path), "/"), "/")
	return top
}

// readNames lists the names in a directory.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
