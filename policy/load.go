package policy

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/problem"
	"github.com/lull/lull/policy/strictyaml"
)

// DefaultsYAML is the annotated file of all keys and their defaults.
//
//go:embed defaults.yaml
var DefaultsYAML []byte

const builtIn = "built in"

// layer is one file that has been read and checked.
type layer struct {
	doc  *strictyaml.Document
	file file
	name string
}

func parse(name string, data []byte) (layer, strictyaml.Errors) {
	l := layer{name: name}
	collect := func(err error) (bad strictyaml.Errors) {
		if err != nil && !errors.As(err, &bad) {
			bad = strictyaml.Errors{{File: name, Text: err.Error()}}
		}
		return bad
	}
	doc, err := strictyaml.Parse(name, data)
	if err != nil {
		return l, collect(err)
	}
	l.doc = doc
	bad := collect(doc.Decode(&l.file))
	return l, append(bad, l.file.validate(doc)...)
}

// Defaults returns the policy that holds where nobody has written one.
func Defaults() *Policy {
	p := &Policy{packages: map[string]settings{}, origins: map[string]string{}}
	l, bad := parse(builtIn, DefaultsYAML)
	if len(bad) > 0 {
		panic("internal error: " + bad.Error())
	}
	p.add(l)
	return p
}

// add lays l over the policy.
func (p *Policy) add(l layer) {
	note := func(section string) func(string) {
		return func(key string) {
			path := section + "." + key
			p.origins[path] = builtIn
			if l.name != builtIn {
				p.origins[path] = fmt.Sprintf("%s:%d", l.name, l.doc.Line(path))
			}
		}
	}
	overlay(&p.defaults, l.file.Defaults, note("defaults"))
	for key, over := range l.file.Packages {
		s := p.packages[key]
		overlay(&s, over, note("packages."+key))
		p.packages[key] = s
	}
	var s schedule
	overlay(&s, l.file.Schedule, note("schedule"))
	if s.Check != nil {
		p.Schedule.Check = time.Duration(*s.Check)
	}
	if s.Reminders != nil {
		p.Schedule.Reminders = make([]time.Duration, len(s.Reminders))
		for i, r := range s.Reminders {
			p.Schedule.Reminders[i] = time.Duration(r)
		}
	}
	if s.Windows != nil {
		p.Schedule.Windows = s.Windows
	}
	var g gc
	overlay(&g, l.file.GC, note("gc"))
	if g.Watermark != nil {
		p.GC.Watermark = *g.Watermark
	}
	if g.Reserve != nil {
		p.GC.Reserve = int64(*g.Reserve)
	}
	if g.AfterRefresh != nil {
		p.GC.AfterRefresh = *g.AfterRefresh
	}
	if g.KeepRecent != nil {
		p.GC.KeepRecent = time.Duration(*g.KeepRecent)
	}
	var i inhibit
	overlay(&i, l.file.Inhibit, note("inhibit"))
	if i.Block != nil {
		p.Inhibit.Block = *i.Block
	}
	var m metrics
	overlay(&m, l.file.Metrics, note("metrics"))
	if m.Textfile != nil {
		p.Metrics.Textfile = *m.Textfile
	}
}

// Load merges the policy file and the drop-ins, the files of dropinDir that end
// in ".yaml" and do not begin with a dot, in the order of their names. Neither
// has to exist. The error is of kind BadPolicy and names file and line.
func Load(path, dropinDir string) (*Policy, error) {
	p := Defaults()
	names, err := dropins(dropinDir)
	if err != nil {
		return nil, err
	}
	for i, name := range append([]string{path}, names...) {
		data, err := os.ReadFile(name)
		if i == 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, problem.New(problem.BadPolicy, "cannot read policy: %w", err)
		}
		l, bad := parse(name, data)
		if len(bad) > 0 {
			return nil, badPolicy(bad)
		}
		p.add(l)
	}
	if err := p.complete(); err != nil {
		return nil, err
	}
	return p, nil
}

// complete finds what only all layers together show: a window that is required and
// is never open would stop updates for ever.
func (p *Policy) complete() error {
	if len(p.Schedule.Windows) > 0 {
		return nil
	}
	requires := func(section string, s settings) error {
		for key, list := range map[string]Conditions{"fetch-requires": s.FetchRequires, "refresh-requires": s.RefreshRequires} {
			if slices.Contains(list, InWindow) {
				return problem.New(problem.BadPolicy, "%s: cannot require %s in %s.%s: schedule.windows has none", p.origins[section+"."+key], InWindow, section, key).
					WithHint("schedule.windows says when maintenance may happen: [sat 02:00-05:00]")
			}
		}
		return nil
	}
	if err := requires("defaults", p.defaults); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(p.packages)) {
		if err := requires("packages."+key, p.packages[key]); err != nil {
			return err
		}
	}
	return nil
}

func badPolicy(bad strictyaml.Errors) error {
	return problem.New(problem.BadPolicy, "%w", bad.Sorted()).WithHint("lull policy check lists everything that is wrong in a file")
}

func dropins(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, problem.New(problem.BadPolicy, "cannot read policy: %w", err)
	}
	var names []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case strings.HasSuffix(e.Name(), ".yml"):
			// Silence would leave the administrator in the belief that it counts.
			return nil, problem.New(problem.BadPolicy, "%s: cannot use this drop-in: its name must end in .yaml", name)
		case strings.HasSuffix(e.Name(), ".yaml"):
			names = append(names, name)
		}
	}
	return names, nil
}

// Check reads one policy file and returns everything that is wrong with it,
// each as "FILE:LINE: cannot …"; nil when it can be used.
func Check(path string) []error {
	data, err := os.ReadFile(path)
	if err != nil {
		return []error{problem.New(problem.BadPolicy, "cannot read policy: %w", err)}
	}
	_, bad := parse(path, data)
	var out []error
	for _, e := range bad.Sorted() {
		out = append(out, problem.New(problem.BadPolicy, "%w", e))
	}
	return out
}
