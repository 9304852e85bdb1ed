package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
)

// Variable is an environment variable of a package's programs: either a value, or elements
// before and after those of the inherited value, which is a list separated by colons. The
// texts have placeholders: ${package}, ${data}, ${common}, ${user_data} and ${user_common}
// are replaced by directories, $$ by a dollar sign.
type Variable struct {
	Value   string   `json:"value,omitempty" yaml:"value,omitempty"`
	Prepend []string `json:"prepend,omitempty" yaml:"prepend,omitempty"`
	Append  []string `json:"append,omitempty" yaml:"append,omitempty"`
}

// The placeholders of a variable's texts.
const (
	PlacePackage    = "package"
	PlaceData       = "data"
	PlaceCommon     = "common"
	PlaceUserData   = "user_data"
	PlaceUserCommon = "user_common"
)

var places = []string{PlacePackage, PlaceData, PlaceCommon, PlaceUserData, PlaceUserCommon}

// The bounds of an environment. Its texts have a bound, too, so that the launch of a package
// cannot fail because of their length (MAX_ARG_STRLEN, execve(2)).
const (
	maxVariables   = 64
	maxVariable    = 128      // bytes of a name
	maxElements    = 64       // of a list
	maxEnvironment = 16 << 10 // bytes of all names and texts
)

// reservedVariables belong to the launcher, to systemd's protocol with services (systemd.exec(5)),
// and to the user's session, where another value would cut the program off from it.
var reservedVariables = []string{
	"CREDENTIALS_DIRECTORY", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "DISPLAY", "FDSTORE", "INVOCATION_ID",
	"JOURNAL_STREAM", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LOGNAME", "MAINPID", "MANAGERPID",
	"MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "NOTIFY_SOCKET", "OLDPWD", "PWD", "SYSTEMD_EXEC_PID", "USER",
	"WATCHDOG_PID", "WATCHDOG_USEC", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "XDG_SEAT", "XDG_SESSION_ID",
	"XDG_SESSION_TYPE", "XDG_VTNR",
}

// codeVariables lead programs to code that they load or execute. A system service runs as
// root, so their directories must not be writable for other users: they are in the package,
// its data, or one of codeDirs.
var codeVariables = []string{
	"BABL_PATH", "BASH_ENV", "CLASSPATH", "ENV", "GCONV_PATH", "GDK_PIXBUF_MODULEDIR", "GDK_PIXBUF_MODULE_FILE", "GEGL_PATH", "GIO_EXTRA_MODULES",
	"GIO_MODULE_DIR", "GI_TYPELIB_PATH", "GST_PLUGIN_PATH", "GST_PLUGIN_SYSTEM_PATH", "GTK_EXE_PREFIX", "GTK_IM_MODULE_FILE",
	"GTK_PATH", "LD_AUDIT", "LD_LIBRARY_PATH", "LD_PRELOAD", "LUA_CPATH", "LUA_PATH", "NODE_PATH", "PATH", "PERL5LIB",
	"PERLLIB", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "QML2_IMPORT_PATH", "QML_IMPORT_PATH", "QT_PLUGIN_PATH",
	"QT_QPA_PLATFORM_PLUGIN_PATH", "RUBYLIB", "TCLLIBPATH",
}

var codeDirs = []string{"/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin"}

func checkEnvironment(env map[string]Variable) error {
	if len(env) > maxVariables {
		return errkind.Errorf("environment: %d variables, where %d are allowed", len(env), maxVariables)
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(env)) {
		v := env[name]
		if _, err := CheckVariable(name, v); err != nil {
			return errkind.Errorf("environment: %w", err)
		}
		size += len(name) + len(v.Value)
		for _, text := range slices.Concat(v.Prepend, v.Append) {
			size += len(text)
		}
	}
	if size > maxEnvironment {
		return errkind.Errorf("environment: %d bytes, where %d are allowed", size, maxEnvironment)
	}
	return nil
}

// CheckVariable checks one variable of an environment. With an error, part is the key path
// of its cause below the variable's, as "prepend[1]", or "" for the variable.
func CheckVariable(name string, v Variable) (part string, err error) {
	code := slices.Contains(codeVariables, name)
	switch {
	case !isVariable(name):
		return "", errkind.Errorf("%.140q: want a name of letters, digits and '_', at most %d characters", name, maxVariable)
	case strings.HasPrefix(name, "LULL_"), slices.Contains(reservedVariables, name):
		return "", errkind.Errorf("%s: packages cannot set this variable", name)
	case v.Value == "" && len(v.Prepend)+len(v.Append) == 0:
		return "", errkind.Errorf("%s: it has no value", name)
	case v.Value != "" && len(v.Prepend)+len(v.Append) > 0:
		return "", errkind.Errorf("%s: it has a value and elements of a list", name)
	case len(v.Prepend)+len(v.Append) > maxElements:
		return "", errkind.Errorf("%s: %d elements, where %d are allowed", name, len(v.Prepend)+len(v.Append), maxElements)
	}
	if err := checkVariableText(v.Value, code, false); err != nil {
		return "", errkind.Errorf("%s: %w", name, err)
	}
	for _, list := range []struct {
		key   string
		items []string
	}{{"prepend", v.Prepend}, {"append", v.Append}} {
		for i, text := range list.items {
			if err := checkVariableText(text, code, true); err != nil {
				return fmt.Sprintf("%s[%d]", list.key, i), errkind.Errorf("%s: %w", name, err)
			}
		}
	}
	return "", nil
}

func isVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || !isDigit(c)) {
			return false
		}
	}
	return name != "" && len(name) <= maxVariable
}

// checkVariableText checks a value, or an element of a list. Elements are paths: an empty or
// relative one would be the directory in which the program happens to run.
func checkVariableText(text string, code, element bool) error {
	if err := checkText(text, maxEnvironment, ""); err != nil {
		return err
	}
	if _, err := expand(text, func(string) (string, bool) { return "", true }); err != nil {
		return err
	}
	if element && strings.Contains(text, ":") {
		return errkind.Errorf("the element %.200q has a ':', which separates elements", text)
	}
	if !element && (!code || text == "") {
		return nil
	}
	for part := range strings.SplitSeq(text, ":") {
		if err := checkVariablePath(part, code); err != nil {
			return err
		}
	}
	return nil
}

func checkVariablePath(p string, code bool) error {
	rest, absolute := p, strings.HasPrefix(p, "/")
	for _, place := range places {
		if after, ok := strings.CutPrefix(p, "${"+place+"}"); ok && (after == "" || after[0] == '/') {
			rest = after
		}
	}
	if !absolute && rest == p {
		return errkind.Errorf("%.200q is not an absolute path: begin it with ${package}", p)
	}
	if slices.Contains(strings.Split(rest, "/"), "..") {
		return errkind.Errorf("%.200q has '..'", p)
	}
	if code && absolute && !slices.ContainsFunc(codeDirs, func(dir string) bool { return within(p, dir) }) {
		return errkind.Errorf("%.200q: code is loaded from it, so it must be in the package, its data, or below %s", p, strings.Join(codeDirs, ", "))
	}
	return nil
}

// Expand replaces the placeholders of a variable's text; at returns the directory of a
// placeholder. It returns false if a directory is missing.
func Expand(text string, at func(place string) (string, bool)) (string, bool) {
	text, err := expand(text, at)
	return text, err == nil
}

const errNoPlace = errkind.Fixed("a directory is missing")

func expand(text string, at func(place string) (string, bool)) (string, error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		if rest, ok := strings.CutPrefix(after, "$"); ok {
			b.WriteByte('$')
			text = rest
			continue
		}
		place, rest, ok := strings.Cut(strings.TrimPrefix(after, "{"), "}")
		if !ok || !strings.HasPrefix(after, "{") {
			return "", errkind.Errorf("%.200q: want $$ for a dollar sign, or a placeholder as ${package}", "$"+after)
		}
		if !slices.Contains(places, place) {
			return "", errkind.Errorf("unknown placeholder ${%.80s}: known are ${%s}", place, strings.Join(places, "}, ${"))
		}
		dir, ok := at(place)
		if !ok {
			return "", errNoPlace
		}
		b.WriteString(dir)
		text = rest
	}
}
