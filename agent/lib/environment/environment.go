// Package environment applies the environment variables of a package to the environment of
// a process.
//
// Words: a list is an environment in the form of os.Environ. The host's environment is the
// one before a package's variables were applied. The variable Changed names the variables
// that a package has changed, separated by colons, and Host followed by the name of one has
// its host's value; it is missing if the host has none. With these, a program that another
// package starts gets the host's environment with its own variables, and no libraries or
// data of the package that starts it.
//
// All functions are pure.
package environment

import (
	"maps"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/manifest"
)

// The variables that record the host's environment.
const (
	Changed = "LULL_ENVIRONMENT"
	Host    = "LULL_HOST_"
)

// standard are the values of lists that are used where the variable is not set (XDG Base
// Directory Specification; execvp(3)). Elements that are added to nothing would replace them.
var standard = map[string]string{
	"PATH":            "/usr/local/bin:/usr/bin:/bin",
	"XDG_CONFIG_DIRS": "/etc/xdg",
	"XDG_DATA_DIRS":   "/usr/local/share:/usr/share",
}

// OfHost returns the list without what a package has changed.
func OfHost(list []string) []string {
	changed := map[string]bool{Changed: true}
	for _, v := range list {
		if names, ok := strings.CutPrefix(v, Changed+"="); ok {
			for name := range strings.SplitSeq(names, ":") {
				changed[name] = true
			}
		}
	}
	if len(changed) == 1 {
		return list
	}
	host := make([]string, 0, len(list))
	for _, v := range list {
		name, value, _ := strings.Cut(v, "=")
		if before, ok := strings.CutPrefix(name, Host); ok {
			if changed[before] {
				host = append(host, before+"="+value)
			}
			continue
		}
		if !changed[name] {
			host = append(host, v)
		}
	}
	return host
}

// Apply returns the list, which is the host's, with the variables of a package. dirs are the
// directories of placeholders. A text whose directory is missing is left out: a service of
// the system has no user's data, for example.
func Apply(list []string, vars map[string]manifest.Variable, dirs map[string]string) []string {
	if len(vars) == 0 {
		return list
	}
	at := func(place string) (string, bool) { dir, ok := dirs[place]; return dir, ok && dir != "" }
	before := make(map[string]string, len(list))
	for _, v := range list {
		name, value, _ := strings.Cut(v, "=")
		before[name] = value
	}
	set := map[string]string{}
	for name, v := range vars {
		if v.Value != "" {
			if text, ok := manifest.Expand(v.Value, at); ok {
				set[name] = text
			}
			continue
		}
		first, last := expandAll(v.Prepend, at), expandAll(v.Append, at)
		if len(first)+len(last) == 0 {
			continue
		}
		middle := before[name]
		if middle == "" {
			middle = standard[name]
		}
		if middle != "" {
			first = append(first, middle)
		}
		set[name] = strings.Join(append(first, last...), ":")
	}
	if len(set) == 0 {
		return list
	}
	result := make([]string, 0, len(list)+2*len(set)+1)
	for _, v := range list {
		name, value, _ := strings.Cut(v, "=")
		if _, ok := set[name]; ok {
			result = append(result, Host+name+"="+value)
			continue
		}
		result = append(result, v)
	}
	names := slices.Sorted(maps.Keys(set))
	for _, name := range names {
		result = append(result, name+"="+set[name])
	}
	return append(result, Changed+"="+strings.Join(names, ":"))
}

func expandAll(texts []string, at func(string) (string, bool)) (all []string) {
	for _, t := range texts {
		if text, ok := manifest.Expand(t, at); ok {
			all = append(all, text)
		}
	}
	return all
}
