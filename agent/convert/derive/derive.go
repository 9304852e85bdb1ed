// Package derive determines the identity of a tree of files: its name, version, title, icon,
// applications and notes. It runs in the converter alone.
//
// The first source with a value counts, in this order: an option of the caller; for the name
// the only desktop file, the AppStream component, the control file, the file's name; for the
// version the control file, X-AppImage-Version, the newest AppStream release, the file's
// name. Those of a container image come from its annotations, its reference, its labels and
// the file's name. A value that cannot be derived is an error that names the option.
//
// All results are a function of the tree: the same tree yields the same result.
package derive

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lull/lull/agent/convert/unpack"
	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/manifest"
)

// Options are values that the caller gives.
type Options struct {
	File    string // name of the first input, without directories
	Name    string // "" to derive it
	Version string // likewise
	// Unattended leaves out what a user has to confirm: bus names, autostart files and
	// services.
	Unattended bool
}

// The bounds of derived values.
const (
	maxApps  = 200
	maxLine  = 512
	maxNotes = 8 << 10
)

// Launch derives the launch part of the manifest. It adds remarks to the tree.
func Launch(t *unpack.Tree, o Options) (manifest.Launch, error) {
	d := &deriver{tree: t, unattended: o.Unattended}
	d.component()
	d.desktops()
	if t.Image == nil {
		d.programs()
	}
	if t.App == nil && t.Image == nil && !o.Unattended {
		d.busNames()
		d.autostarts()
		d.units()
	}
	l := manifest.Launch{Services: d.services, Data: manifest.Data{Versioned: true}}
	if t.Image != nil && d.hasLoader() {
		l.Root = manifest.RootSelf
	}
	fileName, fileVersion := splitFile(o.File)
	main := d.main()
	var err error
	if l.Name, err = name(o.Name, d, main, fileName); err != nil {
		return l, err
	}
	if t.Image != nil {
		d.entrypoint(&l)
		main = d.main()
	}
	d.first(l.Name)
	l.Apps = d.apps
	if l.Version, err = version(o.Version, d, main, fileVersion); err != nil {
		return l, err
	}
	if main != nil {
		l.Title, l.Summary = main.value("Name"), main.value("Comment")
		l.Icon = d.icon(main.value("Icon"))
	}
	if l.Title == "" {
		l.Title = d.annotation(imageTitle)
	}
	if l.Title == "" && d.stream != nil && t.Image == nil {
		l.Title = line(d.stream.Name)
	}
	if l.Summary == "" {
		l.Summary = d.summary()
	}
	l.License = d.license()
	if l.Root == "" {
		d.places(&l)
	}
	if t.Image != nil {
		d.imageEnvironment(&l)
		return l, nil // the other metadata belongs to its system
	}
	if l.Notes = d.releaseNotes(); l.Notes == "" {
		l.Notes = d.changelog()
	}
	return l, nil
}

type deriver struct {
	unattended bool

	tree   *unpack.Tree
	stream *component // nil without AppStream metadata
	list   []*desktop
	apps   []manifest.App
	others []string // programs that desktop files name, paths in the package

	services []manifest.Service
}

// desktop is a desktop file whose program is in the package.
type desktop struct {
	path string
	file *desktopentry.File
}

func (d *desktop) value(key string) string { return line(d.file.Value(desktopentry.Main, key)) }

func (d *desktop) id() string { return strings.TrimSuffix(path.Base(d.path), ".desktop") }

// main returns the desktop file of the package: the only visible one, or nil.
func (d *deriver) main() *desktop {
	var found *desktop
	for _, f := range d.list {
		if f.value("NoDisplay") == "true" {
			continue
		}
		if found != nil {
			return nil
		}
		found = f
	}
	return found
}

// first puts the app that names the package first, so that its command keeps its name when
// the package gains another app.
func (d *deriver) first(name string) {
	slices.SortStableFunc(d.apps, func(a, b manifest.App) int {
		rank := func(a manifest.App) int {
			if a.Desktop != "" && label(strings.TrimSuffix(path.Base(a.Desktop), ".desktop")) == name || a.Name == name {
				return 0
			}
			return 1
		}
		return cmp.Compare(rank(a), rank(b))
	})
}

// label makes a package name from a text, or "" if no valid character remains.
func label(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)), r == '.', r == '-':
			return r
		case r == '_', r == '+', r == ' ':
			return '-'
		}
		return -1
	}, s)
	return strings.TrimRight(strings.TrimLeft(s, ".-"), ".-")
}

func name(asked string, d *deriver, main *desktop, file string) (string, error) {
	if asked != "" {
		return asked, manifest.ValidName(asked)
	}
	var candidates []string
	if d.tree.Image != nil {
		called, _ := d.reference()
		candidates, main = []string{d.annotation(imageTitle), called}, nil
	}
	if main != nil {
		candidates = append(candidates, main.id())
	}
	if d.stream != nil && d.tree.Image == nil {
		candidates = append(candidates, strings.TrimSuffix(d.stream.ID, ".desktop"))
	}
	candidates = append(candidates, d.tree.Control["Package"], file)
	for _, c := range candidates {
		if c = label(c); c != "" && manifest.ValidName(c) == nil {
			return c, nil
		}
	}
	return "", fmt.Errorf("it has no name; --name NAME gives it one")
}

func version(asked string, d *deriver, main *desktop, file string) (string, error) {
	candidates := []string{asked, d.tree.Control["Version"]}
	if d.tree.Image != nil {
		// Labels come last: an image inherits those of the image below it.
		_, tag := d.reference()
		candidates = append(candidates, line(d.tree.Image.Annotations[imageVersion]), tag, line(d.tree.Image.Labels[imageVersion]))
	}
	if main != nil {
		candidates = append(candidates, main.value("X-AppImage-Version"))
	}
	if r := d.newest(); r != nil && d.tree.Image == nil {
		candidates = append(candidates, r.Version)
	}
	candidates = append(candidates, file)
	for _, c := range candidates {
		if c = strings.TrimSpace(c); c != "" && len(c) <= 128 && !strings.ContainsAny(c, " /") && line(c) == c {
			return c, nil
		}
	}
	return "", fmt.Errorf("it has no version; --version VERSION gives it one")
}

// Endings of file names that are neither name nor version.
var (
	formats   = regexp.MustCompile(`(?i)\.(appimage|deb|zip|tar|tgz|txz|tbz2?|tzst|tar\.(gz|xz|zst|bz2))$`)
	platforms = regexp.MustCompile(`(?i)[-_.](linux(32|64)?|x86[-_]64|amd64|x64|i[36]86|aarch64|arm64|armhf|gnu|musl|glibc|unknown|appimage|all|release|portable|bin)$`)
	numbered  = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9.+_ -]*?)[-_. ]?v?([0-9]+(?:[.][0-9A-Za-z]+)*(?:[-+~][0-9A-Za-z.+~-]+)?)$`)
)

// splitFile extracts name and version from the name of a file.
func splitFile(file string) (name, version string) {
	file = formats.ReplaceAllString(file, "")
	for platforms.MatchString(file) {
		file = platforms.ReplaceAllString(file, "")
	}
	if m := numbered.FindStringSubmatch(file); m != nil {
		return m[1], m[2]
	}
	return file, ""
}

// summary returns the first line of the package's description.
func (d *deriver) summary() string {
	if text := d.annotation(imageDescription); text != "" || d.tree.Image != nil {
		return text
	}
	if d.stream != nil && d.stream.Summary != "" {
		return line(d.stream.Summary)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(d.tree.Control["Description"]), "\n")
	return line(first)
}

// line makes one printable line from a text.
func line(s string) string {
	s = strings.Join(strings.Fields(clean(s)), " ")
	for len(s) > maxLine {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

// clean drops the characters that a manifest refuses in texts: control characters, and
// controls of the writing direction (UAX #9).
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return r
		case unicode.IsControl(r), r == utf8.RuneError, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return -1
		}
		return r
	}, s)
}

// hasApp reports whether an app of that name exists.
func (d *deriver) hasApp(name string) bool {
	return slices.ContainsFunc(d.apps, func(a manifest.App) bool { return a.Name == name })
}
