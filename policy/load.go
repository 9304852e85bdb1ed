package policy

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/policy/strictyaml"
)

// DefaultsYAML is the annotated file of all keys and their defaults.
//
//go:embed defaults.yaml
var DefaultsYAML []byte

const builtIn = "built in"

// layer is one file that was read and checked.
type layer struct {
	doc  *strictyaml.Document
	file file
	name string
	old  map[string]bool // sections that use a former name
}

func parse(name string, data []byte) (layer, strictyaml.Errors) {
	l := layer{name: name, old: map[string]bool{}}
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
	bad = append(bad, l.file.unalias(doc, func(section string) { l.old[section] = true })...)
	return l, append(bad, l.file.validate(doc)...)
}

// Defaults returns the policy that holds without any file.
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
				written := path
				if key == pendingKey && l.old[section] {
					written = section + "." + oldPendingKey
				}
				p.origins[path] = fmt.Sprintf("%s:%d", l.name, l.doc.Line(written))
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
	if s.Failures != nil {
		p.Schedule.Failures = time.Duration(*s.Failures)
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
	var n network
	overlay(&n, l.file.Network, note("network"))
	if n.Bandwidth != nil {
		p.Network.Bandwidth = int64(*n.Bandwidth)
	}
	if n.Windows != nil {
		p.Network.Windows = n.Windows
	}
	if n.Requests != nil {
		p.Network.Requests = *n.Requests
	}
	if n.Notice != nil {
		p.Network.Notice = int64(*n.Notice)
	}
	if n.Proxy != nil {
		p.Network.Proxy.URL, p.Network.Proxy.Origin = *n.Proxy, p.origins["network.proxy"]
	}
	if n.NoProxy != nil {
		p.Network.Proxy.Except = n.NoProxy
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

// File is the content of a policy file.
type File struct {
	Name string `json:"name"` // path
	Data []byte `json:"data"`
}

// maxFile bounds a policy file, in bytes.
const maxFile = 4 << 20

// Read reads the policy file and the drop-ins, the files of dropinDir that end
// in ".yaml" and do not begin with a dot, in the order of their names. Neither
// has to exist. The error is of kind BadPolicy.
func Read(path, dropinDir string) (files []File, err error) {
	names, err := dropins(dropinDir)
	if err != nil {
		return nil, err
	}
	for i, name := range append([]string{path}, names...) {
		data, err := readFile(name)
		if i == 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errkind.New(errkind.BadPolicy, "cannot read policy: %w", err)
		}
		files = append(files, File{name, data})
	}
	return files, nil
}

// readFile reads a regular file and waits for no other, such as a fifo.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: name, Err: errors.New("it is no regular file")}
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = &fs.PathError{Op: "read", Path: name, Err: errors.New("it is too large")}
	}
	return data, err
}

// Merge makes a policy of files; each overrides those before it. The
// error is of kind BadPolicy and names file and line.
func Merge(files []File) (*Policy, error) {
	p := Defaults()
	for _, f := range files {
		l, bad := parse(f.Name, f.Data)
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

// Load is Read and Merge.
func Load(path, dropinDir string) (*Policy, error) {
	files, err := Read(path, dropinDir)
	if err != nil {
		return nil, err
	}
	return Merge(files)
}

// Cautious returns the policy that holds if the administrator's cannot be read
// and there is none from before: the defaults, without automatic refreshes and
// without collection after a refresh.
func Cautious() *Policy {
	p := Defaults()
	l, bad := parse("until the policy can be read", []byte("defaults: {auto-refresh: false}\ngc: {after-refresh: false}\n"))
	if len(bad) > 0 {
		panic("internal error: " + bad.Error())
	}
	p.add(l)
	return p
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
				return errkind.New(errkind.BadPolicy, "%s: cannot require %s in %s.%s: schedule.windows has none", p.origins[section+"."+key], InWindow, section, key).
					WithHint("schedule.windows sets the times of maintenance: [sat 02:00-05:00]")
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
	return errkind.New(errkind.BadPolicy, "%w", bad.Sorted()).WithHint("lull policy check lists all faults of a file")
}

func dropins(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errkind.New(errkind.BadPolicy, "cannot read policy: %w", err)
	}
	var names []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case strings.HasSuffix(e.Name(), ".yml"):
			// Silence would leave the administrator in the belief that it counts.
			return nil, errkind.New(errkind.BadPolicy, "%s: cannot use this drop-in: its name must end in .yaml", name)
		case strings.HasSuffix(e.Name(), ".yaml"):
			names = append(names, name)
		}
	}
	return names, nil
}

// Check reads one policy file and returns all its faults, each as "FILE:LINE:
// cannot …"; nil if there are none.
func Check(path string) []error {
	data, err := readFile(path)
	if err != nil {
		return []error{errkind.New(errkind.BadPolicy, "cannot read policy: %w", err)}
	}
	_, bad := parse(path, data)
	var out []error
	for _, e := range bad.Sorted() {
		out = append(out, errkind.New(errkind.BadPolicy, "%w", e))
	}
	return out
}

// Notes returns what is right in a policy file and should be written in another way, as
// "FILE:LINE: TEXT". A file that cannot be read has no notes.
func Notes(path string) (list []string) {
	data, err := readFile(path)
	if err != nil {
		return nil
	}
	l, _ := parse(path, data)
	for _, section := range slices.Sorted(maps.Keys(l.old)) {
		list = append(list, errkind.Text("%s:%d: %s.%s is the former name of %s; both are accepted",
			path, l.doc.Line(section+"."+oldPendingKey), section, oldPendingKey, pendingKey))
	}
	return list
}
