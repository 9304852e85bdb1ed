package site

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
	"github.com/lull/lull/agent/repo/site/words"
)

// readers is the number of applications that are read at the same time.
const readers = 4

// marker is a file of each site. It shows that the directory may be replaced, and has the
// options of the last time.
const marker = "lull-site.json"

// Options are the options of Make.
type Options struct {
	publish.Common
	Output string // the directory of the site
	// URL is the address of the repository, Title the title of the page, and Name the name
	// that machines give to the repository. "" means what the site had before, or else none,
	// the name, and that of the repository's directory.
	URL, Title, Name string
}

// settings are the options that a site keeps.
type settings struct {
	URL   string `json:"url,omitempty"`
	Title string `json:"title,omitempty"`
	Name  string `json:"name"`
}

// LeftOut is a package, or a file of it, that cannot be shown.
type LeftOut struct {
	Package, Path string // the path is "" for the whole package
	Reason        string
}

// Result is the result of Make.
type Result struct {
	Applications int
	LeftOut      []LeftOut
}

// making is one run of Make.
type making struct {
	catalog *publish.Catalog
	dir     string // unfinished site
	base    string // the name of the finished one
	settings
	fingerprints []string

	mu      sync.Mutex // guards what follows
	leftOut []LeftOut
	apps    []*entry
}

// Make writes the site of a repository. An error leaves the old one in place. Error Invalid:
// the output is a directory that is not a site, or an option cannot be used.
func Make(ctx context.Context, dir string, o Options) (Result, error) {
	out, err := filepath.Abs(o.Output)
	if err != nil {
		return Result{}, err
	}
	m := &making{dir: filepath.Join(filepath.Dir(out), "."+filepath.Base(out)+".new"), base: filepath.Base(out)}
	if err := m.options(dir, out, o); err != nil {
		return Result{}, err
	}
	if m.catalog, err = publish.ReadCatalog(ctx, dir, o.Common); err != nil {
		return Result{}, err
	}
	if m.fingerprints, err = repo.Fingerprints(m.catalog.Root()); err != nil {
		return Result{}, err
	}
	if err := durable.RemoveAll(m.dir); err != nil { // of a killed one
		return Result{}, err
	}
	err = m.make(ctx)
	if err == nil {
		err = replaceDir(m.dir, out)
	}
	if err != nil {
		return Result{}, errors.Join(err, durable.RemoveAll(m.dir))
	}
	slices.SortFunc(m.leftOut, func(a, b LeftOut) int {
		return strings.Compare(a.Package+"\x00"+a.Path, b.Package+"\x00"+b.Path)
	})
	return Result{len(m.apps), m.leftOut}, nil
}

// options sets the settings from the options, and from those of the site that is there.
func (m *making) options(dir, out string, o Options) error {
	data, err := os.ReadFile(filepath.Join(out, marker))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if names, err := os.ReadDir(out); err == nil && len(names) > 0 {
			return errkind.New(errkind.Invalid, "cannot replace %s: it is not the page of a repository", out).WithHint("name an empty directory, or one that does not exist yet")
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(data, &m.settings); err != nil {
			return errkind.New(errkind.Invalid, "cannot read %s: %w", filepath.Join(out, marker), err)
		}
	}
	for to, from := range map[*string]string{&m.URL: o.URL, &m.Title: o.Title, &m.Name: o.Name} {
		if from != "" {
			*to = from
		}
	}
	if m.Name == "" {
		m.Name = strings.ToLower(filepath.Base(strings.TrimSuffix(dir, "/")))
		if manifest.ValidLabel(m.Name) != nil {
			m.Name = "repository"
		}
	}
	if err := manifest.ValidLabel(m.Name); err != nil {
		return err
	}
	m.URL = strings.TrimSuffix(m.URL, "/")
	if a := webAddress(m.URL); m.URL != "" && (a != m.URL || strings.ContainsAny(a, "'\"`$ ?#;&|\\<>()")) {
		return errkind.New(errkind.Usage, "cannot use %.200q as the address of the repository: want http:// or https://", m.URL)
	}
	m.Title = oneLine(m.Title)
	return nil
}

// make writes the site to m.dir.
func (m *making) make(ctx context.Context) error {
	dirs := []string{"", "icons", "screenshots", "appstream"}
	for _, l := range words.Languages {
		dirs = append(dirs, directoryOf(l), directoryOf(l)+"apps")
	}
	for _, d := range dirs {
		d = filepath.Join(m.dir, d)
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o755); err != nil { // a web server of another user reads it
			return err
		}
	}
	catalog, err := m.newCatalog()
	if err != nil {
		return err
	}
	defer catalog.close()
	// The catalogue has the applications in the order of their names, so they are read in
	// groups: memory is that of one group.
	names := m.catalog.Names()
	for group := range slices.Chunk(names, 8*readers) {
		apps := make([]*app, len(group))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(readers)
		for i, name := range group {
			g.Go(func() error {
				a, err := m.gather(ctx, name)
				if err != nil && usable(err) {
					m.leave(name, "", err)
					return nil
				}
				if err != nil {
					return err
				}
				apps[i] = a
				return m.appPages(a)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, a := range apps {
			if a == nil {
				continue
			}
			m.apps = append(m.apps, entryOf(a))
			if err := catalog.add(a); err != nil {
				return err
			}
		}
	}
	if err := catalog.finish(); err != nil {
		return err
	}
	if err := m.indexPages(); err != nil {
		return err
	}
	if err := m.put("root.json", m.catalog.Root()); err != nil {
		return err
	}
	data, err := json.Marshal(m.settings)
	if err == nil {
		err = m.put(marker, append(data, '\n'))
	}
	if err != nil {
		return err
	}
	return durable.SyncFS(m.dir)
}

// leave records a package, or a file of it, that is left out.
func (m *making) leave(name, path string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leftOut = append(m.leftOut, LeftOut{name, path, oneLine(err.Error())})
}

// put writes a file of the site, readable for a web server of another user.
func (m *making) put(path string, data []byte) error {
	full := filepath.Join(m.dir, path)
	if err := os.WriteFile(full, data, 0o644); err != nil {
		return err
	}
	return os.Chmod(full, 0o644)
}

// write puts a picture into the site, and returns its path. Equal pictures are one file.
func (m *making) write(dir string, p *picture) (string, error) {
	path := dir + "/" + digest.Of(p.data).String()[:32] + p.ext
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, err := os.ReadFile(filepath.Join(m.dir, path)); err == nil && bytes.Equal(old, p.data) {
		return path, nil
	}
	return path, m.put(path, p.data)
}

// replaceDir puts a new directory in the place of an old one, in one step, and removes the old
// one.
func replaceDir(fresh, out string) error {
	if _, err := os.Lstat(out); errors.Is(err, fs.ErrNotExist) {
		return durable.Rename(fresh, out)
	}
	if err := durable.Exchange(fresh, out); err != nil {
		return err
	}
	return durable.RemoveAll(fresh)
}
