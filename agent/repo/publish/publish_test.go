package publish_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/publish"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func initRepo(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repository")
	must(t, publish.Init(t.Context(), dir, publish.InitOptions{}))
	return dir
}

// source makes a package source; a name that ends in "*" is executable.
func source(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		perm := fs.FileMode(0o644)
		name, exec := strings.CutSuffix(name, "*")
		if exec {
			perm = 0o755
		}
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), perm))
	}
	return dir
}

func open(t *testing.T, dir string) *repo.Client {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	must(t, err)
	c, err := repo.Open(repo.Config{Name: "main", URL: dir, Root: root}, t.TempDir())
	must(t, err)
	return c
}

func readMeta(t *testing.T, c *repo.Client, d digest.Digest) *manifest.Meta {
	t.Helper()
	r, err := c.Blob(t.Context(), d, 0)
	must(t, err)
	defer r.Close()
	data, err := io.ReadAll(r)
	must(t, err)
	m, err := manifest.Parse(data)
	must(t, err)
	return m
}

const full = `
name: org.example.editor
version: 2.0-rc1
title: Editor
license: MIT
summary: Edits text
icon: share/icon.svg
notes: |
  Faster.
  Prettier.
apps:
- name: editor
  command: ./bin/editor --new "a b" 'c d'
  desktop: share/editor.desktop
  dbus-name: org.example.Editor
- name: viewer
  command: [bin/editor, "--view $HOME"]
services:
- name: index
  scope: system
  command: bin/index
  refresh-mode: endure
  ready: notify
  stop-signal: SIGINT
  stop-timeout: 1m30s
  user: nobody
hooks:
  health: bin/index --check
layout:
  /opt/Editor: ./share
root: .
environment:
  EDITOR_HOME: ${package}/share
  XDG_DATA_DIRS: {prepend: "${package}/share"}
  LD_LIBRARY_PATH:
    append:
    - ${package}/lib
    - ${data}/lib
data:
  versioned: false
refresh:
  mode: side-by-side
  refresh-pending: block
  max-postponement: 30d
`

func TestPublish(t *testing.T) {
	dir := initRepo(t)
	src := source(t, map[string]string{
		"lull.yaml": full, "bin/editor*": "#!/bin/sh\n", "bin/index*": "#!/bin/sh\n", "share/editor.desktop": "[Desktop Entry]\nType=Application\nName=Editor\nExec=editor %F\n",
		"share/icon.svg": "<svg/>", "share/again.svg": "<svg/>", "empty": "", "sub/lull.yaml": "not special here",
	})
	must(t, os.MkdirAll(src+"/var/cache", 0o755))
	must(t, os.Symlink("../share/icon.svg", src+"/bin/icon"))
	rollout := 25
	res, err := publish.Publish(t.Context(), dir, src, publish.Options{Channel: "beta", Urgency: repo.UrgencySecurity, Rollout: &rollout})
	must(t, err)
	c := open(t, dir)
	p, err := c.Channel(t.Context(), "org.example.editor", "beta")
	must(t, err)
	if p.Package != res.Package || p.Version != "2.0-rc1" || p.Urgency != repo.UrgencySecurity || p.Rollout.Percent != 25 ||
		p.Notes != "Faster.\nPrettier." || p.Size != res.Bytes || time.Since(p.Published) > time.Minute {
		t.Errorf("got %+v; want package %s of %d bytes, version 2.0-rc1, urgency %s, 25%% of the machines, notes %q, published just now", p, res.Package, res.Bytes, repo.UrgencySecurity, "Faster.\nPrettier.")
	}
	// Both programs are the same bytes, and so are the icons; then the desktop file, the
	// empty file, the inner lull.yaml and the manifest.
	if res.Blobs != 6 || res.NewBlobs != 6 || res.Name != "org.example.editor" || res.Channel != "beta" {
		t.Errorf("result: got %+v, want blobs 6, new blobs 6, name %q and channel %q", res, "org.example.editor", "beta")
	}
	m := readMeta(t, c, res.Package)
	want := manifest.Launch{
		Name: "org.example.editor", Version: "2.0-rc1", Title: "Editor", Summary: "Edits text", Icon: "share/icon.svg", License: "MIT", Notes: "Faster.\nPrettier.",
		Apps: []manifest.App{
			{Name: "editor", Command: []string{"bin/editor", "--new", "a b", "c d"}, Desktop: "share/editor.desktop", DBusName: "org.example.Editor"},
			{Name: "viewer", Command: []string{"bin/editor", "--view $HOME"}},
		},
		Services: []manifest.Service{{Name: "index", Scope: "system", Command: []string{"bin/index"}, RefreshMode: "endure", Ready: "notify", StopSignal: "SIGINT", StopTimeout: manifest.Duration(90 * time.Second), User: "nobody"}},
		Hooks:    map[string][]string{"health": {"bin/index", "--check"}},
		Layout:   map[string]string{"/opt/Editor": "share"},
		Root:     manifest.RootSelf,
		Environment: map[string]manifest.Variable{
			"EDITOR_HOME": {Value: "${package}/share"}, "XDG_DATA_DIRS": {Prepend: []string{"${package}/share"}},
			"LD_LIBRARY_PATH": {Append: []string{"${package}/lib", "${data}/lib"}},
		},
		Refresh: manifest.Wishes{Mode: manifest.WishSideBySide, RefreshPending: manifest.WishBlock, MaxPostponement: manifest.Duration(30 * 24 * time.Hour)},
	}
	if !reflect.DeepEqual(m.Launch, want) {
		t.Errorf("got  %+v\nwant %+v", m.Launch, want)
	}
	var paths []string
	for _, e := range m.Entries {
		s := e.Path
		switch {
		case e.Type == manifest.TypeDir:
			s += "/"
		case e.Type == manifest.TypeSymlink:
			s += " → " + e.Symlink
		case e.Exec:
			s += "*"
		}
		paths = append(paths, s)
	}
	if got, want := strings.Join(paths, ", "), "bin/editor*, bin/icon → ../share/icon.svg, bin/index*, empty, share/again.svg, share/editor.desktop, share/icon.svg, sub/lull.yaml, var/cache/"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// The second publication has the same package; only the pointer is new.
	again, err := publish.Publish(t.Context(), dir, src, publish.Options{})
	must(t, err)
	if again.Package != res.Package || again.NewBlobs != 0 || again.NewBytes != 0 || again.Blobs != res.Blobs || again.Bytes != res.Bytes {
		t.Errorf("again: %+v after %+v", again, res)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".publish")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the scratch folder is left: %v", err)
	}
}

func TestDataIsVersionedByDefault(t *testing.T) {
	dir := initRepo(t)
	res, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n"}), publish.Options{})
	must(t, err)
	if !readMeta(t, open(t, dir), res.Package).Data.Versioned {
		t.Error("it is not")
	}
}

// TestXDGData: the word xdg is short for the key. Without import, the names of the package are
// where an existing profile may be.
func TestXDGData(t *testing.T) {
	dir := initRepo(t)
	const head = "name: org.example.pad\nversion: 1\ntitle: Pad\napps:\n- name: pad\n  command: bin/pad\n"
	for _, c := range []struct {
		yaml string
		want manifest.Data
	}{
		{"data: xdg\n", manifest.Data{Versioned: true, XDG: true, Import: strings.Fields("config/org.example.pad config/org.example.pad.conf config/org.example.padrc " +
			"data/org.example.pad state/org.example.pad config/pad config/pad.conf config/padrc data/pad state/pad config/Pad config/Pad.conf config/Padrc data/Pad state/Pad")}},
		{"data: {xdg: true, versioned: false, import: [config/notes]}\n", manifest.Data{XDG: true, Import: []string{"config/notes"}}},
		{"data: {xdg: true, import: []}\n", manifest.Data{Versioned: true, XDG: true}},
		{"data:\n", manifest.Data{Versioned: true}},
	} {
		src := source(t, map[string]string{"lull.yaml": head + c.yaml, "bin/pad": "#!/bin/sh\n"})
		must(t, os.Chmod(src+"/bin/pad", 0o755))
		res, err := publish.Publish(t.Context(), dir, src, publish.Options{})
		must(t, err)
		if got := readMeta(t, open(t, dir), res.Package).Data; got.XDG != c.want.XDG || got.Versioned != c.want.Versioned || !slices.Equal(got.Import, c.want.Import) {
			t.Errorf("%q: %+v; want xdg %v, versioned %v and import %v", c.yaml, got, c.want.XDG, c.want.Versioned, c.want.Import)
		}
	}
}

func TestBadSources(t *testing.T) {
	const head = "name: org.example.a\nversion: 1\n"
	dir := initRepo(t)
	before := tree(t, dir)
	for name, c := range map[string]struct {
		yaml  string
		spoil func(src string) error
		want  string
	}{
		"no name":           {"version: 1\n", nil, "lull.yaml: cannot publish without name and version"},
		"empty file":        {"", nil, "lull.yaml: cannot publish without name and version"},
		"bad name":          {"name: Big Name\nversion: 1\n", nil, `lull.yaml:1: cannot use "Big Name" as a package name`},
		"unknown key":       {head + "entries: []\n", nil, `lull.yaml:3: cannot use the key "entries"`},
		"shell":             {head + "apps:\n- name: a\n  command: bin/a | tee log\n", nil, "lull.yaml:5: cannot use this as apps[0].command: a shell would be needed for it"},
		"open quote":        {head + "apps:\n- name: a\n  command: bin/a 'b\n", nil, "lull.yaml:5: cannot use this as apps[0].command: a quote is not closed"},
		"empty command":     {head + "apps:\n- name: a\n  command: ''\n", nil, "lull.yaml:5: cannot use this as apps[0].command: it is empty"},
		"no command":        {head + "apps:\n- name: a\n", nil, `lull.yaml:4: cannot use the app "a" without a command`},
		"absent program":    {head + "apps:\n- name: a\n  command: bin/none\n", nil, `command "bin/none" is not in the package`},
		"absolute":          {head + "apps:\n- name: a\n  command: /bin/sh\n", nil, `command "/bin/sh": the path is absolute`},
		"not executable":    {head + "apps:\n- name: a\n  command: file\n", nil, `command "file" is not executable`},
		"subpackage":        {head + "subpackages:\n  x: a/b\n", nil, `lull.yaml:4: cannot use the subpackage "x": "a/b" is neither the hash`},
		"layout":            {head + "layout:\n  /opt/x: file\n  /var/x: file\n", nil, "lull.yaml:5: cannot use the layout /var/x: a package can have a place in /opt"},
		"part of a layout":  {head + "layout:\n  /opt/x: none\n", nil, `layout: /opt/x: "none" is not in the package`},
		"root":              {head + "subpackages:\n  x: ./x\nroot: y\n", nil, `lull.yaml:5: cannot use the root "y": want the name of a subpackage, or '.' for the package itself`},
		"placeholder":       {head + "environment:\n  A: ${home}/x\n", nil, "lull.yaml:4: cannot use the environment variable A: unknown placeholder ${home}"},
		"element":           {head + "environment:\n  A:\n    append:\n    - /x\n    - ${home}/x\n", nil, "lull.yaml:7: cannot use the environment variable A: unknown placeholder ${home}"},
		"one element":       {head + "environment:\n  A:\n    prepend: x\n", nil, `lull.yaml:5: cannot use the environment variable A: "x" is not an absolute path`},
		"variable":          {head + "environment:\n  LULL_X: x\n", nil, "lull.yaml:4: cannot use the environment variable LULL_X: packages cannot set"},
		"key of a variable": {head + "environment:\n  A: {add: x}\n", nil, `lull.yaml:4: cannot use the key "add" in environment.A: known are prepend, append`},
		"word of data":      {head + "data: home\n", nil, `lull.yaml:3: cannot use this as data: "home" is unknown: want xdg, or keys`},
		"key of data":       {head + "data:\n  xgd: true\n", nil, `lull.yaml:4: cannot use the key "xgd" in data: known are`},
		"import":            {head + "data:\n  xdg: true\n  import:\n  - config/a\n  - config/dconf\n", nil, `lull.yaml:7: cannot import "config/dconf": config/dconf belongs to the desktop`},
		"import of nothing": {head + "data:\n  import: [config/a]\n", nil, `lull.yaml:4: cannot use data.import without xdg: true`},
		"no subpackage":     {head + "subpackages:\n  x: " + strings.Repeat("a", 64) + "\n", nil, "cannot use package " + strings.Repeat("a", 64) + ", which is not (whole) in the repository"},
		"fifo":              {head, func(src string) error { return unix.Mkfifo(src+"/d/x", 0o644) }, "/d/x: it is a fifo"},
		"socket": {head, func(src string) error {
			l, err := net.Listen("unix", src+"/d/x")
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				l.Close()
			}
			return err
		}, "/d/x: it is a socket"},
		"set-user-id":      {head, func(src string) error { return os.Chmod(src+"/file", 0o755|fs.ModeSetuid) }, "/file: it is set-user-id or set-group-id"},
		"absolute symlink": {head, func(src string) error { return os.Symlink("/etc/passwd", src+"/d/x") }, "/d/x: it is a symlink to the absolute path /etc/passwd"},
		"escaping symlink": {head, func(src string) error { return os.Symlink("../../x", src+"/d/x") }, "/d/x: it is a symlink that leaves the package, to ../../x"},
		"reserved":         {head, func(src string) error { return os.Mkdir(src+"/.lull", 0o755) }, `the directory .lull is reserved`},
		"name not UTF-8":   {head, func(src string) error { return os.WriteFile(src+"/d/\xff", nil, 0o644) }, "is not UTF-8"},
		"no lull.yaml":     {head, func(src string) error { return os.Remove(src + "/lull.yaml") }, "it has no lull.yaml"},
		"device": {head, func(src string) error {
			if os.Geteuid() != 0 {
				return errors.ErrUnsupported
			}
			return unix.Mknod(src+"/d/x", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200)))
		}, "/d/x: it is a device"},
	} {
		t.Run(name, func(t *testing.T) {
			src := source(t, map[string]string{"lull.yaml": c.yaml, "file": "x", "d/file": "y"})
			if c.spoil != nil {
				if err := c.spoil(src); err != nil {
					t.Skip("cannot be made here: ", err)
				}
			}
			_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
			if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "cannot ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("got  %s: %v\nwant %s", errkind.KindOf(err), err, c.want)
			}
			if now := tree(t, dir); !slices.Equal(now, before) {
				t.Errorf("the repository has changed: got %v, want %v", now, before)
			}
		})
	}
}

// tree lists the names in a repository.
func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	}))
	return names
}

func TestSubpackages(t *testing.T) {
	dir := initRepo(t)
	put := func(yaml string) *publish.Result {
		t.Helper()
		res, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": yaml, "f": yaml}), publish.Options{})
		must(t, err)
		return res
	}
	a := put("name: a\nversion: 1\n")
	b := put(fmt.Sprintf("name: b\nversion: 1\nsubpackages: {a: %s}\n", a.Package))
	c := put(fmt.Sprintf("name: c\nversion: 1\nsubpackages: {b: %s, a: %s}\n", b.Package, a.Package))
	if a.Blobs != 2 || b.Blobs != 4 || c.Blobs != 6 || c.Bytes <= b.Bytes || b.Bytes <= a.Bytes {
		t.Errorf("got %d, %d and %d blobs, %d, %d and %d bytes; want 2, 4 and 6 blobs, and more bytes each time", a.Blobs, b.Blobs, c.Blobs, a.Bytes, b.Bytes, c.Bytes)
	}
}

// Publishers wait for each other, and a reader sees a whole repository at any time.
func TestManyAtOnce(t *testing.T) {
	dir := initRepo(t)
	const publishers, versions = 3, 6
	var writers, reader sync.WaitGroup
	done := make(chan struct{})
	c := open(t, dir)
	reader.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := c.Update(t.Context()); err != nil {
				t.Errorf("reader: %v", err)
				return
			}
			listed, err := c.Listings(t.Context())
			if err != nil {
				t.Error(err)
			}
			for _, l := range listed {
				p, err := c.Channel(t.Context(), l.Name, l.Channel)
				if err != nil {
					t.Errorf("reader: %v", err)
					return
				}
				for _, b := range readMeta(t, c, p.Package).Blobs() {
					r, err := c.Blob(t.Context(), b.Digest, 0)
					if err != nil {
						t.Errorf("reader: %v", err)
						return
					}
					r.Close()
				}
			}
		}
	})
	for i := range publishers {
		writers.Go(func() {
			for v := range versions {
				src := source(t, map[string]string{"lull.yaml": fmt.Sprintf("name: app%d\nversion: %d\n", i, v), "f": fmt.Sprint(i, v), "same": "same"})
				if _, err := publish.Publish(t.Context(), dir, src, publish.Options{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	reader.Wait()
	must(t, c.Update(t.Context()))
	for i := range publishers {
		p, err := c.Channel(t.Context(), fmt.Sprintf("app%d", i), "stable")
		if err != nil || p.Version != fmt.Sprint(versions-1) {
			t.Errorf("%d: %+v, %v; want no error and version %v", i, p, err, fmt.Sprint(versions-1))
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "metadata", fmt.Sprintf("%d.targets.json", publishers*versions+1))); err != nil {
		t.Error("a version was lost: ", err)
	}
}

func TestCancel(t *testing.T) {
	dir := initRepo(t)
	files := map[string]string{"lull.yaml": "name: a\nversion: 1\n"}
	for i := range 50 {
		files[fmt.Sprintf("f%d", i)] = fmt.Sprint(i)
	}
	src := source(t, files)
	before := tree(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := publish.Publish(ctx, dir, src, publish.Options{Progress: func(done, total int64) {
		if done >= 10 {
			cancel()
		}
		if total != 90 { // 10 files of one byte, and 40 of two
			t.Errorf("total %d, want 90", total)
		}
	}})
	if !errkind.Is(err, errkind.Interrupted) {
		t.Error(err)
	}
	if now := tree(t, dir); !slices.Equal(now, before) {
		t.Errorf("the repository has changed: got %v, want %v", now, before)
	}
	// The same while another process has the lock.
	f, err := os.Open(dir)
	must(t, err)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := publish.Resign(ctx, dir, publish.ResignOptions{}); !errkind.Is(err, errkind.Interrupted) {
		t.Error(err)
	}
	f.Close()
	must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{}))
}

// TestProgressOfLargeFile: the progress is that of bytes, also in one file.
func TestProgressOfLargeFile(t *testing.T) {
	const size = 3*repo.FrameSize + 1
	src := source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n", "large": strings.Repeat("x", size), "small": "x"})
	var got []int64
	_, err := publish.Publish(t.Context(), initRepo(t), src, publish.Options{Workers: 1, Progress: func(done, total int64) {
		if total != size+1 {
			t.Errorf("got a total of %d bytes, want %d", total, size+1)
		}
		got = append(got, done)
	}})
	must(t, err)
	want := []int64{repo.FrameSize, 2 * repo.FrameSize, 3 * repo.FrameSize, size, size, size + 1}
	if !slices.Equal(got, want) {
		t.Errorf("got progress %v, want %v", got, want)
	}
}

// Files of a killed publisher do not prevent the next publication.
func TestLeftovers(t *testing.T) {
	dir := initRepo(t)
	must(t, os.MkdirAll(dir+"/.publish/x", 0o755))
	must(t, os.WriteFile(dir+"/.publish/"+digest.Of([]byte("x")).String(), []byte("half"), 0o644))
	must(t, os.WriteFile(dir+"/metadata/2.targets.json", []byte("half"), 0o644))
	must(t, os.WriteFile(dir+"/metadata/2.snapshot.json", []byte("half"), 0o644))
	_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n", "x": "x"}), publish.Options{})
	must(t, err)
	c := open(t, dir)
	if _, err := c.Channel(t.Context(), "a", "stable"); err != nil {
		t.Error(err)
	}
}

func TestLongNotesAreCut(t *testing.T) {
	dir := initRepo(t)
	_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: 1\n"}), publish.Options{Notes: strings.Repeat("ü", 20000)})
	must(t, err)
	p, err := open(t, dir).Channel(t.Context(), "a", "stable")
	must(t, err)
	if len(p.Notes) > repo.MaxNotes || !strings.HasSuffix(p.Notes, "ü…") {
		t.Errorf("got notes of %d bytes that end with %q, want at most %d that end with %q", len(p.Notes), p.Notes[max(0, len(p.Notes)-8):], repo.MaxNotes, "ü…")
	}
}

func BenchmarkPublish(b *testing.B) {
	const files = 2000
	src := b.TempDir()
	if err := os.WriteFile(src+"/lull.yaml", []byte("name: a\nversion: 1\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	for i := range files {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", src, i), []byte(strings.Repeat(fmt.Sprint("line ", i, "\n"), 500)), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.Run(fmt.Sprintf("files=%d", files), func(b *testing.B) {
		for b.Loop() {
			dir := filepath.Join(b.TempDir(), "r")
			if err := publish.Init(b.Context(), dir, publish.InitOptions{}); err != nil {
				b.Fatal(err)
			}
			if _, err := publish.Publish(b.Context(), dir, src, publish.Options{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestRefusesWhatCannotBeExported: the packager gets an error in a desktop file, with the
// line, before any machine gets the package.
func TestRefusesWhatCannotBeExported(t *testing.T) {
	dir := initRepo(t)
	for name, c := range map[string]struct{ content, want string }{
		"space behind the header": {"[Desktop Entry] \nType=Application\nName=x\nExec=x\n", "share/x.desktop: line 1"},
		"another program":         {"[Desktop Entry]\nType=Application\nName=x\nExec=xdg-open %u\n", `line 4: Exec=xdg-open %u: "xdg-open" is no application of the package`},
	} {
		t.Run(name, func(t *testing.T) {
			src := source(t, map[string]string{"bin/x*": "x", "share/x.desktop": c.content,
				"lull.yaml": "name: x\nversion: 1\napps: [{name: x, command: bin/x, desktop: share/x.desktop}]\n"})
			_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
			if !errkind.Is(err, errkind.Invalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	for _, name := range []string{"org.x.Maps", "org.x.maps"} {
		src := source(t, map[string]string{"lull.yaml": "name: " + name + "\nversion: 1\n", "f": "x"})
		_, err := publish.Publish(t.Context(), dir, src, publish.Options{})
		if refused := name == "org.x.maps"; refused != errkind.Is(err, errkind.Conflict) || !refused && err != nil {
			t.Errorf("publish %s: got %v, want it refused with kind %v: %v", name, err, errkind.Conflict, refused)
		}
	}
}

// TestQuick: the level of the compression is no part of a package.
func TestQuick(t *testing.T) {
	files := map[string]string{"lull.yaml": "name: a\nversion: 1\n", "text": strings.Repeat("the same words ", 10_000), "large": strings.Repeat("large ", 1<<20)}
	var hashes []digest.Digest
	for _, quick := range []bool{false, true} {
		dir := initRepo(t)
		r, err := publish.Publish(t.Context(), dir, source(t, files), publish.Options{Quick: quick})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := publish.Check(t.Context(), dir, publish.CheckOptions{}); err != nil {
			t.Errorf("quick %t: %v", quick, err)
		}
		hashes = append(hashes, r.Package)
	}
	if hashes[0] != hashes[1] {
		t.Errorf("got package %s if it is published quickly, want %s as otherwise", hashes[1], hashes[0])
	}
}
