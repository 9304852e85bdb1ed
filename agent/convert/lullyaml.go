package convert

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
)

// SourceFile is the lull.yaml of a package source.
const SourceFile = "lull.yaml"

// maxSourceFile bounds the lull.yaml of an input, in bytes.
const maxSourceFile = 1 << 20

// WriteSource makes a package source from the directory with the result of Run: it writes a
// lull.yaml, unless the input is already a source.
func (d *Description) WriteSource(dir string) error {
	path := filepath.Join(dir, SourceFile)
	if !d.Source {
		return os.WriteFile(path, LullYAML(&d.Launch), 0o644)
	}
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case !fi.Mode().IsRegular(), fi.Size() > maxSourceFile:
		return errkind.New(errkind.Invalid, "cannot use %s: want a regular file of at most %d bytes", SourceFile, maxSourceFile)
	}
	return nil
}

// LullYAML writes the launch part of a manifest as a lull.yaml. Each text is a JSON
// string, which YAML 1.2 reads as itself (section 1.3).
func LullYAML(l *manifest.Launch) []byte {
	var b strings.Builder
	put := func(indent, key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s%s: %s\n", indent, key, quoted(value))
		}
	}
	put("", "name", l.Name)
	put("", "version", l.Version)
	put("", "title", l.Title)
	put("", "summary", l.Summary)
	put("", "icon", l.Icon)
	put("", "license", l.License)
	put("", "notes", l.Notes)
	if len(l.Apps) > 0 {
		b.WriteString("apps:\n")
	}
	command := func(words []string) {
		var list []string
		for _, w := range words {
			list = append(list, quoted(w))
		}
		fmt.Fprintf(&b, "    command: [%s]\n", strings.Join(list, ", "))
	}
	for _, a := range l.Apps {
		put("  - ", "name", a.Name)
		command(a.Command)
		put("    ", "desktop", a.Desktop)
		put("    ", "autostart", a.Autostart)
		put("    ", "dbus-name", a.DBusName)
		put("    ", "dbus-service", a.DBusService)
	}
	if len(l.Services) > 0 {
		b.WriteString("services:\n")
	}
	for _, s := range l.Services {
		put("  - ", "name", s.Name)
		put("    ", "scope", s.Scope)
		command(s.Command)
		put("    ", "ready", s.Ready)
		put("    ", "user", s.User)
		put("    ", "stop-signal", s.StopSignal)
		if s.StopTimeout != 0 {
			put("    ", "stop-timeout", s.StopTimeout.String())
		}
	}
	if len(l.Environment) > 0 {
		b.WriteString("environment:\n")
	}
	for _, name := range slices.Sorted(maps.Keys(l.Environment)) {
		v := l.Environment[name]
		if v.Value != "" {
			put("  ", name, v.Value)
			continue
		}
		fmt.Fprintf(&b, "  %s:\n", name)
		for _, list := range []struct {
			key   string
			items []string
		}{{"prepend", v.Prepend}, {"append", v.Append}} {
			if len(list.items) > 0 {
				fmt.Fprintf(&b, "    %s:\n", list.key)
			}
			for _, item := range list.items {
				fmt.Fprintf(&b, "      - %s\n", quoted(item))
			}
		}
	}
	put("", "root", l.Root)
	if len(l.Layout) > 0 {
		b.WriteString("layout:\n")
	}
	for _, at := range slices.Sorted(maps.Keys(l.Layout)) {
		put("  ", quoted(at), l.Layout[at])
	}
	return []byte(b.String())
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("internal error: a string has no JSON: " + err.Error())
	}
	return string(b)
}
