package manifest

import (
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

// Limits on what a meta holds. The path limit leaves room for the store's root
// within PATH_MAX.
const (
	maxPath      = 2048
	maxComponent = 255
	maxLine      = 1024
	maxNotes     = 256 << 10
	maxSize      = 1 << 50
	maxTimeout   = time.Hour
)

// check covers the rules beyond the form. Entries are sorted by path; they are
// checked only when whole is set.
func check(l *Launch, entries []Entry, whole bool) error {
	if err := ValidName(l.Name); err != nil {
		return errkind.New(errkind.Invalid, "cannot use the meta: %w", err)
	}
	err := checkLaunch(l)
	if err == nil && whole {
		err = checkEntries(entries)
	}
	if err == nil && whole {
		err = checkPaths(l, entries)
	}
	if err != nil {
		return errkind.New(errkind.Invalid, "cannot use the meta of %s: %w", l.Name, err)
	}
	return nil
}

func checkLaunch(l *Launch) error {
	if l.Version == "" || len(l.Version) > 128 || strings.ContainsAny(l.Version, " /") {
		return errkind.Errorf("version %.140q: want 1 to 128 characters without space and '/'", l.Version)
	}
	for _, line := range [][2]string{{"version", l.Version}, {"title", l.Title}, {"summary", l.Summary}, {"icon", l.Icon}, {"license", l.License}} {
		if err := checkText(line[1], maxLine, ""); err != nil {
			return errkind.Errorf("%s: %w", line[0], err)
		}
	}
	if err := ValidNeeds(l.NeedsLull); err != nil {
		return err
	}
	if err := checkText(l.Notes, maxNotes, "\n\t"); err != nil {
		return errkind.Errorf("notes: %w", err)
	}
	if strings.Contains(l.Icon, "/") {
		if err := checkPath(l.Icon); err != nil {
			return errkind.Errorf("icon %q: %w", l.Icon, err)
		}
	}
	if err := checkApps(l.Apps); err != nil {
		return err
	}
	if err := checkServices(l.Services); err != nil {
		return err
	}
	if l.Format != 0 && l.Format != Format2 {
		return errkind.Errorf("format %d: want 1 or 2", l.Format)
	}
	if l.Format != Format2 && l.Hooks[HookQuit] != nil && l.Hooks[HookRefreshPending] != nil {
		return errkind.Errorf("hooks quit and refresh-pending both ask to quit: refresh-pending has its own meaning from format 2 on")
	}
	for _, hook := range slices.Sorted(maps.Keys(l.Hooks)) {
		switch hook {
		case HookRefreshPending, HookQuit, HookPreRefresh, HookPostRefresh, HookHealth, HookActivate, HookBooted, HookCommit, HookRollback:
		default:
			return errkind.Errorf("unknown hook %.80q", hook)
		}
		if err := checkCommand(l, l.Hooks[hook]); err != nil {
			return errkind.Errorf("hook %s: %w", hook, err)
		}
	}
	if err := checkWishes(l.Refresh); err != nil {
		return err
	}
	if err := checkEnvironment(l.Environment); err != nil {
		return err
	}
	if err := checkLayout(l.Layout); err != nil {
		return err
	}
	if l.Root != "" && l.Root != RootSelf && l.Subpackages[l.Root].IsZero() {
		return errkind.Errorf("root: there is no subpackage %.80q", l.Root)
	}
	if err := checkData(l); err != nil {
		return err
	}
	for _, a := range l.Apps {
		if err := checkCommand(l, a.Command); err != nil {
			return errkind.Errorf("app %s: %w", a.Name, err)
		}
	}
	for _, s := range l.Services {
		// systemd's unit of a service is lull-NAME-SERVICE.service.
		if l.Name+"-"+s.Name == ownUnit {
			return errkind.Errorf("service %s: its unit would be lull-%s.service, which is lull's own", s.Name, ownUnit)
		}
		if err := checkCommand(l, s.Command); err != nil {
			return errkind.Errorf("service %s: %w", s.Name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.Subpackages)) {
		if err := ValidName(name); err != nil {
			return errkind.Errorf("subpackage: %w", err)
		}
		if l.Subpackages[name].IsZero() {
			return errkind.Errorf("subpackage %s: it has no hash", name)
		}
	}
	return nil
}

func checkWishes(w Wishes) error {
	switch w.Mode {
	case "", WishWait, WishSideBySide, WishEndure:
	default:
		return errkind.Errorf("refresh: mode %.80q: want wait, side-by-side or endure", w.Mode)
	}
	switch w.RefreshPending {
	case "", WishAllow, WishBlock:
	default:
		return errkind.Errorf("refresh: refresh-pending %.80q: want allow or block", w.RefreshPending)
	}
	if d := time.Duration(w.MaxPostponement); d < 0 || d > MaxWish {
		return errkind.Errorf("refresh: max-postponement %s: want at most 90 days", w.MaxPostponement)
	}
	return nil
}

func checkApps(apps []App) error {
	seen := map[string]bool{}
	for _, a := range apps {
		switch {
		case !isWord(a.Name, true):
			return errkind.Errorf("app %.80q: want a name of letters, digits, '.', '-', '_' and '+'", a.Name)
		case seen[a.Name]:
			return errkind.Errorf("app %s: there are two of that name", a.Name)
		case a.DBusName != "" && !isBusName(a.DBusName):
			return errkind.Errorf("app %s: %.300q is no well-known D-Bus name", a.Name, a.DBusName)
		}
		seen[a.Name] = true
		for _, f := range a.files() {
			if f.path == "" {
				continue
			}
			if err := checkPath(f.path); err != nil {
				return errkind.Errorf("app %s: %s %q: %w", a.Name, f.what, f.path, err)
			}
			if !strings.HasSuffix(f.path, f.ext) || strings.HasSuffix(f.path, "/"+f.ext) {
				return errkind.Errorf("app %s: %s %q: want a name that ends in %q", a.Name, f.what, f.path, f.ext)
			}
		}
		if a.DBusService != "" && path.Base(a.DBusService) != a.DBusName+".service" {
			return errkind.Errorf("app %s: D-Bus service file %q: want the name %q, of its dbus-name", a.Name, a.DBusService, a.DBusName+".service")
		}
	}
	return nil
}

// exportedFile is a file of the package that an app exports.
type exportedFile struct{ what, path, ext string }

func (a *App) files() [3]exportedFile {
	return [3]exportedFile{
		{"desktop file", a.Desktop, ".desktop"},
		{"autostart file", a.Autostart, ".desktop"},
		{"D-Bus service file", a.DBusService, ".service"},
	}
}

// ownUnit is what stands between "lull-" and ".service" in the one name of a unit of
// lull's own (units/) that could be a service's.
const ownUnit = "system-commit"

func checkServices(services []Service) error {
	seen := map[string]bool{}
	for _, s := range services {
		switch {
		case !isWord(s.Name, false):
			return errkind.Errorf("service %.80q: want a name of letters, digits, '.', '-' and '_'", s.Name)
		case seen[s.Name]:
			return errkind.Errorf("service %s: there are two of that name", s.Name)
		case s.Scope != "" && s.Scope != ScopeSystem && s.Scope != ScopeUser:
			return errkind.Errorf("service %s: unknown scope %.80q: want system or user", s.Name, s.Scope)
		case s.RefreshMode != "" && s.RefreshMode != ModeRestart && s.RefreshMode != ModeEndure:
			return errkind.Errorf("service %s: unknown refresh-mode %.80q: want restart or endure", s.Name, s.RefreshMode)
		case s.Ready != "" && s.Ready != ReadyNotify:
			return errkind.Errorf("service %s: unknown ready %.80q: want notify", s.Name, s.Ready)
		case s.StopSignal != "" && !isSignal(s.StopSignal):
			return errkind.Errorf("service %s: %.80q is no signal name like SIGTERM", s.Name, s.StopSignal)
		case s.StopTimeout < 0 || time.Duration(s.StopTimeout) > maxTimeout:
			return errkind.Errorf("service %s: stop-timeout %s: want at most %s", s.Name, s.StopTimeout, maxTimeout)
		case s.User != "" && !isUser(s.User):
			return errkind.Errorf("service %s: %.80q is no user name", s.Name, s.User)
		case s.User != "" && s.Scope == ScopeUser:
			return errkind.Errorf("service %s: a service of scope user has no user key", s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}

// checkText refuses what would spoil a terminal, a log line or a dialog.
func checkText(s string, limit int, allowed string) error {
	if len(s) > limit {
		return errkind.Errorf("%d bytes, where %d are allowed", len(s), limit)
	}
	if !utf8.ValidString(s) {
		return errkind.Errorf("%.80q is not UTF-8", s)
	}
	if i := strings.IndexFunc(s, func(r rune) bool {
		return (r < 0x20 || r >= 0x7f && r < 0xa0) && !strings.ContainsRune(allowed, r)
	}); i >= 0 {
		return errkind.Errorf("a control character in %.80q", s)
	}
	// Characters that embed, override or isolate make a text show as another
	// one, UAX #9. The marks that a text in two directions may need do not.
	if i := strings.IndexFunc(s, func(r rune) bool { return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 }); i >= 0 {
		return errkind.Errorf("a control of the writing direction in %.80q", s)
	}
	return nil
}

// checkCommand checks the words of a command; the existence of its program is
// checkPaths's business.
func checkCommand(l *Launch, command []string) error {
	if len(command) == 0 {
		return errkind.Errorf("it has no command")
	}
	program := command[0]
	inside := program
	if sub, ok := strings.CutPrefix(program, Reserved+"/sub/"); ok {
		name, rest, _ := strings.Cut(sub, "/")
		if _, known := l.Subpackages[name]; !known {
			return errkind.Errorf("command %q: there is no subpackage %q", program, name)
		}
		inside = rest
	}
	if err := checkPath(inside); err != nil {
		return errkind.Errorf("command %q: %w", program, err)
	}
	for _, word := range command {
		if !utf8.ValidString(word) || strings.ContainsRune(word, 0) {
			return errkind.Errorf("command %q: the word %.80q is not UTF-8 or has a zero byte", program, word)
		}
	}
	return nil
}

// tree is the entries, sorted by path.
type tree []Entry

// at is the entry with that path, if it is no directory; else nil.
func (t tree) at(path string) *Entry {
	i := sort.Search(len(t), func(i int) bool { return t[i].Path >= path })
	if i == len(t) || t[i].Path != path || t[i].Type == TypeDir {
		return nil
	}
	return &t[i]
}

// checkEntries wants entries sorted by path.
func checkEntries(entries tree) error {
	sizes := make(map[digest.Digest]int64, len(entries))
	for i := range entries {
		e := &entries[i]
		if err := checkPath(e.Path); err != nil {
			return errkind.Errorf("entry %.300q: %w", e.Path, err)
		}
		if err := checkEntry(e, sizes); err != nil {
			return errkind.Errorf("entry %q: %w", e.Path, err)
		}
		if i > 0 && e.Path == entries[i-1].Path {
			return errkind.Errorf("entry %q: the path is listed twice", e.Path)
		}
		if i > 0 && e.Path < entries[i-1].Path {
			return errkind.Errorf("entry %q: it stands after %q: entries must be sorted by path", e.Path, entries[i-1].Path)
		}
	}
	return entries.checkParents()
}

// checkParents refuses entries below a file or symlink. Neighbours are mostly
// in the same directory, so that few parents are looked up.
func (t tree) checkParents() error {
	previous := ""
	for i := range t {
		path := t[i].Path
		dir := parent(path)
		for d := dir; d != "" && !within(previous, d); d = parent(d) {
			if t.at(d) != nil {
				return errkind.Errorf("entry %q: its parent %q is a file or symlink", path, d)
			}
		}
		previous = dir
	}
	return nil
}

// parent is the parent directory of a path, "" if that is the root.
func parent(path string) string { return path[:max(0, strings.LastIndexByte(path, '/'))] }

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	return strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

func checkEntry(e *Entry, sizes map[digest.Digest]int64) error {
	switch e.Type {
	case "", TypeFile:
		switch {
		case e.Blob.IsZero():
			return errkind.Errorf("a file without a blob")
		case e.Symlink != "":
			return errkind.Errorf("a file with the target of a symlink")
		case e.Size < 0 || e.Size > maxSize:
			return errkind.Errorf("a size of %d bytes", e.Size)
		}
		if size, known := sizes[e.Blob]; known && size != e.Size {
			return errkind.Errorf("blob %s has two sizes, %d and %d bytes", e.Blob.Short(), size, e.Size)
		}
		sizes[e.Blob] = e.Size
		return nil
	case TypeDir, TypeSymlink:
		if !e.Blob.IsZero() || e.Size != 0 || e.Exec || e.Type == TypeDir && e.Symlink != "" {
			return errkind.Errorf("a %s with what only files have", e.Type)
		}
		if e.Type == TypeDir {
			return nil
		}
		return checkTarget(e.Path, e.Symlink)
	}
	return errkind.Errorf("unknown type %.80q: want dir or symlink, or none for a file", e.Type)
}

// checkPath wants a plain path below the package's root.
func checkPath(path string) error {
	switch {
	case path == "":
		return errkind.Errorf("an empty path")
	case len(path) > maxPath:
		return errkind.Errorf("the path has %d bytes, where %d are allowed", len(path), maxPath)
	case path[0] == '/':
		return errkind.Errorf("the path is absolute")
	}
	if err := checkText(path, maxPath, ""); err != nil {
		return err
	}
	for rest, first := path, true; ; first = false {
		component, after, more := strings.Cut(rest, "/")
		switch {
		case component == "":
			return errkind.Errorf("the path has an empty component")
		case component == "." || component == "..":
			return errkind.Errorf("%q is not allowed in a path", component)
		case first && component == Reserved:
			return errkind.Errorf("the directory %s is reserved", Reserved)
		case len(component) > maxComponent:
			return errkind.Errorf("a component of %d bytes, where %d are allowed", len(component), maxComponent)
		}
		if !more {
			return nil
		}
		rest = after
	}
}

// checkTarget refuses symlinks that leave the package. The parents of a
// symlink are real directories, so a run of ".." at the beginning climbs
// exactly as far as it appears; after a name, which may be another symlink, it
// would not.
func checkTarget(path, target string) error {
	switch {
	case target == "":
		return errkind.Errorf("a symlink without a target")
	case target[0] == '/':
		return errkind.Errorf("the symlink's target %q is absolute", target)
	}
	if err := checkText(target, maxPath, ""); err != nil {
		return errkind.Errorf("the symlink's target: %w", err)
	}
	depth, named := strings.Count(path, "/"), false
	for component := range strings.SplitSeq(target, "/") {
		switch component {
		case "", ".":
		case "..":
			if named {
				return errkind.Errorf("the symlink's target %q has '..' behind a name", target)
			}
			if depth--; depth < 0 {
				return errkind.Errorf("the symlink's target %q lies outside the package", target)
			}
		default:
			named = true
		}
	}
	return nil
}

// checkPaths looks up what commands and desktop files refer to.
func checkPaths(l *Launch, t tree) error {
	for _, a := range l.Apps {
		if err := t.program(a.Command[0]); err != nil {
			return errkind.Errorf("app %s: %w", a.Name, err)
		}
		for _, f := range a.files() {
			if f.path != "" && t.at(f.path) == nil && !t.throughSymlink(f.path) {
				return errkind.Errorf("app %s: there is no %s %q", a.Name, f.what, f.path)
			}
		}
	}
	for _, s := range l.Services {
		if err := t.program(s.Command[0]); err != nil {
			return errkind.Errorf("service %s: %w", s.Name, err)
		}
	}
	for at, part := range l.Layout {
		if !t.has(part) {
			return errkind.Errorf("layout: %s: %q is not in the package", at, part)
		}
	}
	for hook, command := range l.Hooks {
		if err := t.program(command[0]); err != nil {
			return errkind.Errorf("hook %s: %w", hook, err)
		}
	}
	return nil
}

// program requires an executable file. The target of a symlink, or of a path
// in a subpackage, is not in the manifest.
func (t tree) program(path string) error {
	e := t.at(path)
	switch {
	case e != nil && e.Exec, strings.HasPrefix(path, Reserved+"/"), t.throughSymlink(path):
		return nil
	case e != nil:
		return errkind.Errorf("command %q is not executable", path)
	}
	return errkind.Errorf("command %q is not in the package", path)
}

// throughSymlink reports whether path or a parent of it is a symlink.
func (t tree) throughSymlink(path string) bool {
	for ; path != ""; path = parent(path) {
		if e := t.at(path); e != nil && e.Type == TypeSymlink {
			return true
		}
	}
	return false
}
