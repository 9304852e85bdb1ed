package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

// candidate is a possible name, with aliases.
type candidate struct {
	name  string
	words []string
}

// resolve returns the typed name if it exists. Otherwise it returns the one name with that
// last part, else the one with that alias, in any case of letters: "notes" for
// "org.example.notes". A word for several names is an error of kind Usage that lists them. If
// there is none, ok is false.
func resolve(typed string, known []candidate) (name string, ok bool, err error) {
	var short, further []string
	for _, c := range known {
		if c.name == typed {
			return typed, true, nil
		}
		switch {
		case strings.EqualFold(typed, lastPart(c.name)), strings.EqualFold(typed, c.name):
			if !slices.Contains(short, c.name) {
				short = append(short, c.name)
			}
		case slices.ContainsFunc(c.words, func(w string) bool { return strings.EqualFold(typed, w) }):
			if !slices.Contains(further, c.name) {
				further = append(further, c.name)
			}
		}
	}
	if len(short) == 0 {
		short = further
	}
	switch len(short) {
	case 0:
		return typed, false, nil
	case 1:
		return short[0], true, nil
	}
	slices.Sort(short)
	return typed, false, output.Error(errkind.Usage, "cannot choose an application: %s can be %s", output.OneLine(typed), output.List(short)).WithHint("write the whole name")
}

// lastPart returns the part of a name after its last dot.
func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// mostSimilar bounds the similar names in the output.
const mostSimilar = 3

// similar returns the names that are most similar to the typed one, the best first.
func similar(typed string, known []candidate) []string {
	typed = strings.ToLower(typed)
	best := map[string]int{}
	for _, c := range known {
		name := strings.ToLower(c.name)
		words := append([]string{name, lastPart(name)}, c.words...)
		far := 1 << 10
		for _, w := range words {
			w = strings.ToLower(w)
			d := distance(typed, w)
			if len(typed) >= 3 && strings.Contains(w, typed) {
				d = min(d, 1)
			}
			// A common prefix of most names does not make them similar.
			if d <= max(1, min(len(lastPart(typed)), len(lastPart(w)))/3) {
				far = min(far, d)
			}
		}
		if old, there := best[c.name]; far < 1<<10 && (!there || far < old) {
			best[c.name] = far
		}
	}
	var names []string
	for n := range best {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if best[a] != best[b] {
			return best[a] - best[b]
		}
		return strings.Compare(a, b)
	})
	return names[:min(len(names), mostSimilar)]
}

// distance returns how many letters must be added, omitted, replaced or swapped with the next
// one (optimal string alignment).
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	if len(s) > 100 || len(t) > 100 {
		return 1 << 10 // no name is that long
	}
	rows := make([][]int, len(s)+1)
	for i := range rows {
		rows[i] = make([]int, len(t)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(s); i++ {
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(s)][len(t)]
}

// did returns the hint for an unknown name.
func did(typed string, known []candidate, otherwise string) string {
	if names := similar(typed, known); len(names) > 0 {
		return output.T("did you mean %s?", output.OneLine(output.Choice(names)))
	}
	return otherwise
}

// candidates returns the instances that are installed or being installed.
func (s *snapshot) candidates() (known []candidate) {
	for _, r := range s.refreshes {
		if r.Kind == "install" && !output.Over(r.State) {
			known = append(known, candidate{name: r.Instance})
		}
	}
	for _, p := range s.packages {
		known = append(known, candidate{p.Instance, slices.Concat(p.Apps, []string{p.Title})})
	}
	return known
}

// instances resolves typed names to instances. A name that is not installed remains
// unchanged: the agent reports it.
func (a *app) instances(ctx context.Context, typed []string) (names []string, err error) {
	if len(typed) == 0 {
		return nil, nil
	}
	err = a.ask(ctx, func(ctx context.Context, ag *agent) error {
		if ag.installed(ctx, typed) {
			names = typed
			return nil
		}
		s, err := ag.overview(ctx)
		if err != nil {
			return err
		}
		known := s.candidates()
		for _, t := range typed {
			name, _, err := resolve(t, known)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// installed reports whether all names are those of installed instances, letter by letter. It
// asks for each: that is much cheaper than a list if many are installed.
func (ag *agent) installed(ctx context.Context, names []string) bool {
	for i, name := range names {
		if i == fewRefreshes || manifest.ValidInstance(name) != nil {
			return false
		}
		if have, err := bus.NewPackageProxy(ag.conn, bus.PackagePath(name)).GetInstance(ctx); err != nil || have != name {
			return false
		}
	}
	return true
}

// named resolves one argument that is an application or something else, a hash or a path. The
// name of an installed application has priority over a hash.
func (s *snapshot) named(typed string) (string, error) {
	if strings.HasPrefix(typed, "/") {
		return typed, nil
	}
	name, more, sub := strings.Cut(typed, "/")
	name, _, err := resolve(name, s.candidates())
	if sub {
		name += "/" + more
	}
	return name, err
}

// stored resolves a name to an instance by the content of the store, for commands without an
// agent. An unknown name remains unchanged.
func (a *app) stored(typed string) (string, error) {
	if name, more, inside := strings.Cut(typed, "/"); inside && name != "" {
		name, err := a.stored(name)
		return name + "/" + more, err
	}
	root, err := a.store()
	if err != nil {
		return typed, nil // the launch reports it
	}
	current := filepath.Join(root, "current")
	if _, err := os.Lstat(filepath.Join(current, typed)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return typed, nil
	}
	entries, err := os.ReadDir(current)
	if err != nil {
		return typed, nil
	}
	var known []candidate
	for _, e := range entries {
		known = append(known, candidate{name: e.Name()})
	}
	name, _, err := resolve(typed, known)
	return name, err
}

// offered resolves a typed name to one that repositories offer. If none offers it, it remains
// unchanged; unknown is its error, which gets similar names.
func (ag *agent) offered(ctx context.Context, typed string, unknown error) (string, error) {
	_, known, err := ag.available(ctx)
	if err != nil {
		return typed, unknown
	}
	name, ok, err := resolve(typed, known)
	if err != nil || ok && name != typed {
		return name, err
	}
	if hint := did(typed, known, ""); hint != "" {
		unknown = &errkind.Error{Kind: errkind.NotFound, Text: unknown.Error(), Hint: hint, Err: unknown}
	}
	return typed, unknown
}

// available returns the names that repositories offer, by their last metadata.
func (ag *agent) available(ctx context.Context) ([]bus.AvailablePackage, []candidate, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	offers, _, err := ag.manager.ListAvailable(ctx, bus.ListAvailableOptions{})
	var known []candidate
	for _, o := range offers {
		known = append(known, candidate{name: o.Name})
	}
	return offers, known, err
}
