package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/store"
)

// Options are the options of Convert.
type Options struct {
	Name     string // of the package; "" to derive it
	Version  string // likewise
	LullYAML string // text whose keys replace the derived ones
	// Unattended means that no user can confirm rights: bus names, autostart files and
	// services are not derived.
	Unattended bool `json:",omitempty"`
	// Progress is called with the bytes of all files that are read, and with their number. It may
	// be nil.
	Progress func(done, total int64) `json:"-"`
}

// Source is a package source that was made from uploads.
type Source struct {
	Launch manifest.Launch
	Found  *convert.Description
	// Rights are the requests of the package beyond programs that users start: one line
	// for each service, hook and bus name.
	Rights []string
	// Confirm is the digest of the uploads, the options and the rights. The same uploads
	// and options make the same package (convert.Version).
	Confirm digest.Digest

	dir, tree, overlay string
}

// Remove deletes the source.
func (s *Source) Remove() error { return os.RemoveAll(s.dir) }

// Content returns the files of a published source, which only the agent can change, by the
// blobs of the store that they can become.
func (s *Source) Content(r *publish.Result) map[store.Key]string {
	files := map[store.Key]string{}
	for _, e := range r.Entries {
		if e.IsFile() {
			files[store.Key{Digest: e.Blob, Exec: e.Exec}] = filepath.Join(s.tree, filepath.FromSlash(e.Path))
		}
	}
	return files
}

// Input is a file that only the agent can change.
type Input interface {
	// Open returns the file, which the caller closes, and its digest.
	Open(ctx context.Context) (*os.File, digest.Digest, error)
}

// Convert makes a source from files. Kind Invalid: they cannot be converted.
func (s *Store) Convert(ctx context.Context, inputs []Input, o Options) (*Source, error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var hashes []digest.Digest
	for _, u := range inputs {
		f, hash, err := u.Open(ctx)
		if err != nil {
			return nil, err
		}
		files, hashes = append(files, f), append(hashes, hash)
	}
	if err := faultpoint.Hit("local.convert"); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.Root, scratchPrefix)
	if err != nil {
		return nil, err
	}
	src := &Source{dir: dir, tree: filepath.Join(dir, "package")}
	if err := src.make(ctx, s, files, o); err != nil {
		return nil, errors.Join(withoutScratch(err, src.tree), src.Remove())
	}
	src.Confirm, err = confirmation(hashes, o, src.Rights)
	return src, err
}

// make fills an empty scratch directory.
func (s *Source) make(ctx context.Context, l *Store, files []*os.File, o Options) (err error) {
	if err := os.Mkdir(s.tree, 0o755); err != nil {
		return err
	}
	run := convert.Options{Program: l.Converter, Name: o.Name, Version: o.Version, Unattended: o.Unattended, Progress: o.Progress}
	if l.Confine != nil {
		root := filepath.Join(s.dir, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			return err
		}
		run.Start = l.Confine(root)
	}
	s.Found, err = convert.Run(ctx, s.tree, files, run)
	if err != nil {
		return err
	}
	if err := s.Found.WriteSource(s.tree); err != nil {
		return err
	}
	if o.LullYAML != "" {
		s.overlay = filepath.Join(s.dir, "options")
		if err := os.WriteFile(s.overlay, []byte(o.LullYAML), 0o600); err != nil {
			return err
		}
	}
	launch, err := publish.Describe(s.tree, s.overlay)
	if err != nil {
		return err
	}
	s.Launch, s.Rights = *launch, rights(launch)
	return nil
}

// confirmation returns the digest that a confirmation names.
func confirmation(hashes []digest.Digest, o Options, rights []string) (digest.Digest, error) {
	b, err := json.Marshal(struct {
		Version int
		Files   []digest.Digest
		Options Options
		Rights  []string
	}{convert.Version, hashes, o, rights})
	return digest.Of(b), err
}

// rights lists the rights that a package requests, one line each.
func rights(l *manifest.Launch) (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	hookUser := "root"
	for _, s := range slices.Backward(l.Services) {
		if s.User != "" {
			hookUser = s.User
		}
	}
	for _, s := range l.Services {
		who := "root"
		switch {
		case s.Scope == manifest.ScopeUser:
			who = "each user who logs in"
		case s.User != "":
			who = s.User
		}
		add("the service %s runs as %s: %s", s.Name, who, strings.Join(s.Command, " "))
	}
	for _, h := range slices.Sorted(maps.Keys(l.Hooks)) {
		who := hookUser
		if h == manifest.HookRefreshPending {
			who = "the user"
		}
		add("the hook %s runs as %s: %s", h, who, strings.Join(l.Hooks[h], " "))
	}
	for _, a := range l.Apps {
		if a.DBusName != "" {
			add("the app %s has the bus name %s", a.Name, a.DBusName)
		}
		if a.Autostart != "" {
			add("the app %s starts when a user logs in: %s", a.Name, strings.Join(a.Command, " "))
		}
	}
	return list
}

// Publish puts a source into the repository and points a channel to it. The urgency "" means
// medium. Progress is called with the bytes of the source that were compressed, and with their
// number; it may be nil.
func (s *Store) Publish(ctx context.Context, src *Source, channel string, urgency repo.Urgency, progress func(done, total int64)) (*publish.Result, error) {
	if err := faultpoint.Hit("local.publish"); err != nil {
		return nil, err
	}
	r, err := publish.Publish(ctx, s.Dir(), src.tree, publish.Options{Common: s.common(), Channel: channel, Urgency: urgency, Overlay: src.overlay, Quick: true, Progress: progress})
	if err != nil {
		return nil, withoutScratch(err, src.tree)
	}
	return r, faultpoint.Hit("local.published")
}

// withoutScratch replaces the scratch directory in an error with the name of the package.
func withoutScratch(err error, tree string) error {
	dir := filepath.Dir(tree)
	text := err.Error()
	for _, r := range [][2]string{{tree + "/", ""}, {tree, "the package"}, {dir + "/", ""}, {dir, "the scratch directory"}} {
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	return &errkind.Error{Kind: errkind.KindOf(err), Text: text, Hint: errkind.HintOf(err), Err: err}
}
