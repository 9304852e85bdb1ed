package derive

import (
	"cmp"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/manifest"
)

// Annotations of images (OCI image specification, "Annotations").
const (
	imageTitle       = "org.opencontainers.image.title"
	imageDescription = "org.opencontainers.image.description"
	imageVersion     = "org.opencontainers.image.version"
	imageLicenses    = "org.opencontainers.image.licenses"
)

// The bounds of the variables that an image sets.
const (
	maxImageVariables = 40
	maxImageText      = 8 << 10 // bytes of their names and values
)

// imagePath is the PATH of an image that sets none (the default of runc and crun).
const imagePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hostVariables are variables of an image that belong to the user of the machine.
var hostVariables = []string{"PATH", "HOME", "HOSTNAME", "SHELL", "TERM"}

// loaders are patterns of the dynamic loaders of glibc and musl.
var loaders = []string{"*lib*/ld-linux*.so.*", "*lib*/ld-musl-*.so.*", "usr/lib*/ld-linux*.so.*", "usr/lib*/ld-musl-*.so.*", "*lib/" + library + "/ld-linux*.so.*", "usr/lib/" + library + "/ld-linux*.so.*"}

// annotation returns an annotation or label of the image, in one line.
func (d *deriver) annotation(key string) string {
	if d.tree.Image == nil {
		return ""
	}
	return line(cmp.Or(d.tree.Image.Annotations[key], d.tree.Image.Labels[key]))
}

// reference splits the reference of the image into the last component of its name and its tag.
func (d *deriver) reference() (name, tag string) {
	name, _, _ = strings.Cut(path.Base(d.tree.Image.Reference), "@")
	name, tag, _ = strings.Cut(name, ":")
	if !strings.ContainsAny(d.tree.Image.Reference, "/:") { // the specification allows a tag alone
		name, tag = "", name
	}
	if !strings.ContainsAny(tag, "0123456789") {
		tag = "" // as latest
	}
	return name, tag
}

// entrypoint makes the app of an image, which has the name of the package, from its
// entrypoint. The other programs of an image belong to its system.
func (d *deriver) entrypoint(l *manifest.Launch) {
	command := d.tree.Image.Command
	if len(command) == 0 {
		if len(d.apps) == 0 {
			d.tree.Remark("the image starts no program; --with FILE adds apps")
		}
		return
	}
	program := d.imageProgram(command[0])
	if program == "" {
		d.tree.Remark("the program %.200q of the image is not in it; --with FILE adds apps", command[0])
		return
	}
	app := manifest.App{Name: l.Name, Command: append([]string{program}, command[1:]...)}
	for _, arg := range command[1:] {
		if l.Root == "" && strings.HasPrefix(arg, "/") && d.tree.Resolve(strings.TrimPrefix(path.Clean(arg), "/")) != nil {
			d.tree.Remark("the argument %.200q is a path of the image, at which the program does not find it", arg)
		}
	}
	for _, a := range d.apps { // of a desktop file
		if a.Desktop != "" && d.tree.Resolve(a.Command[0]) == d.tree.Resolve(program) {
			app.Desktop = a.Desktop
		}
	}
	d.list = slices.DeleteFunc(d.list, func(f *desktop) bool { return f.path != app.Desktop })
	d.apps = []manifest.App{app}
	if w := d.tree.Image.WorkingDir; w != "" && w != "/" {
		d.tree.Remark("the program starts in the directory of its user, not in %.200q", w)
	}
	for _, v := range d.tree.Image.Volumes {
		d.tree.Remark("the volume %.200q is a part of the package, which is read-only", v)
	}
}

// imageProgram returns the path in the package of a program that an image names, or "".
func (d *deriver) imageProgram(program string) string {
	var candidates []string
	switch {
	case strings.HasPrefix(program, "/"):
		candidates = []string{program}
	case strings.Contains(program, "/"):
		candidates = []string{path.Join("/", d.tree.Image.WorkingDir, program)}
	default:
		dirs := imagePath
		for _, v := range d.tree.Image.Environment {
			if value, ok := strings.CutPrefix(v, "PATH="); ok {
				dirs = value
			}
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			candidates = append(candidates, path.Join("/", dir, program))
		}
	}
	for _, c := range candidates {
		// The name of the file may be what a program of several names goes by.
		dir, base := path.Split(strings.TrimPrefix(path.Clean(c), "/"))
		if dir != "" {
			up := d.tree.Resolve(dir)
			if up == nil {
				continue
			}
			dir = up.Path
		}
		if p := d.executable(path.Join(dir, base)); p != "" {
			return p
		}
	}
	return ""
}

// hasLoader reports whether an image has a dynamic loader: its programs run with the image's
// own C library, at the paths of the image.
func (d *deriver) hasLoader() bool {
	return slices.ContainsFunc(d.tree.Paths(), func(p string) bool {
		return slices.ContainsFunc(loaders, func(pattern string) bool { return matches(pattern, p) })
	})
}

// imageEnvironment adds the variables of an image to the derived ones. Paths of the image
// become paths of the package, except in a root of its own.
func (d *deriver) imageEnvironment(l *manifest.Launch) {
	size, count := 0, 0
	for _, text := range d.tree.Image.Environment {
		name, value, _ := strings.Cut(text, "=")
		if l.Root != "" && name == "PATH" {
			d.imagePath(l, value)
			continue
		}
		if _, derived := l.Environment[name]; derived || value == "" || slices.Contains(hostVariables, name) {
			continue
		}
		v := manifest.Variable{Value: strings.ReplaceAll(value, "$", "$$")}
		_, err := manifest.CheckVariable(name, v)
		if err != nil || l.Root == "" { // or one that leads to code, which takes paths of the package
			v.Value = d.placed(value)
			_, err = manifest.CheckVariable(name, v)
		}
		size, count = size+len(name)+len(v.Value), count+1
		if err == nil && (size > maxImageText || count > maxImageVariables) {
			err = errors.New("the image sets too many")
		}
		if err != nil {
			d.tree.Remark("the variable %.80q of the image is left out: %s", name, err)
			continue
		}
		if l.Environment == nil {
			l.Environment = map[string]manifest.Variable{}
		}
		l.Environment[name] = v
	}
}

// imagePath adds the directories of an image with programs to PATH.
func (d *deriver) imagePath(l *manifest.Launch, value string) {
	var v manifest.Variable
	for dir := range strings.SplitSeq(value, ":") {
		if dir = d.placed(dir); strings.HasPrefix(dir, "${package}/") {
			v.Prepend = append(v.Prepend, dir)
		}
	}
	if _, err := manifest.CheckVariable("PATH", v); err == nil {
		l.Environment = map[string]manifest.Variable{"PATH": v}
	}
}

// placed returns the text of a variable: absolute paths that the package has begin with its
// directory.
func (d *deriver) placed(value string) string {
	parts := strings.Split(value, ":")
	for i, part := range parts {
		inside := strings.HasPrefix(part, "/") && d.tree.Resolve(strings.TrimPrefix(path.Clean(part), "/")) != nil
		if parts[i] = strings.ReplaceAll(part, "$", "$$"); inside && path.Clean(part) != "/" {
			parts[i] = "${package}" + parts[i]
		}
	}
	return strings.Join(parts, ":")
}
