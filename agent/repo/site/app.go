package site

import (
	"context"
	"errors"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/agent/exports/desktopentry"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/repo"
	"github.com/lull/lull/agent/repo/site/words"
)

// app is an application of the page.
type app struct {
	name          string
	channels      []repo.Offers // stable first
	offer         repo.Offer    // the version that the page is about
	meta          *manifest.Meta
	info          *metainfo
	title, about  local
	license       string
	desktop       string // base name of its desktop file, or ""
	categories    []string
	updated       time.Time
	icon          string // path in the site, or ""
	iconSide      int    // pixels; 0 means an SVG
	screens       []screen
	hasPrograms   bool
	otherPictures []shot // screenshots that the package lacks
}

// screen is a screenshot in the site.
type screen struct {
	path          string
	width, height int
	caption       local
}

// shareDirs are the directories of a package with usual places.
var shareDirs = []string{"share", "usr/share", "usr/local/share"}

// gather reads an application. Error Invalid or Untrusted: it cannot be shown.
func (m *making) gather(ctx context.Context, name string) (*app, error) {
	channels, err := m.catalog.Offers(name)
	if err != nil {
		return nil, err
	}
	a := &app{name: name, channels: channels, offer: channels[0][0]}
	for _, o := range channels[0] {
		if o.Halted == nil {
			a.offer = o
			break
		}
	}
	for _, list := range channels {
		for _, o := range list {
			if o.Published.After(a.updated) {
				a.updated = o.Published
			}
		}
	}
	if a.meta, err = m.catalog.Manifest(ctx, a.offer.Package); err != nil {
		return nil, err
	}
	a.hasPrograms = len(a.meta.Apps) > 0
	r := &reading{making: m, ctx: ctx, app: a, files: map[string]*manifest.Entry{}}
	links := map[string]string{}
	for i := range a.meta.Entries {
		switch e := &a.meta.Entries[i]; {
		case e.IsFile():
			r.files[e.Path] = e
		case e.Symlink != "":
			links[e.Path] = path.Join(path.Dir(e.Path), e.Symlink)
		}
	}
	linked := map[string]*manifest.Entry{}
	for from, to := range links { // a symlink to a symlink is left out
		if e := r.files[to]; e != nil {
			linked[from] = e
		}
	}
	maps.Copy(r.files, linked)
	icon, err := r.describe()
	if err == nil {
		err = r.icon(icon)
	}
	if err == nil {
		err = r.screens()
	}
	return a, err
}

// reading reads the files of one application.
type reading struct {
	*making
	ctx   context.Context
	app   *app
	files map[string]*manifest.Entry // by path, also by the paths of symlinks to them
}

// file returns a file of the package. A file that is missing or cannot be used is left out:
// nil.
func (r *reading) file(p string, limit int64) ([]byte, error) {
	e := r.files[p]
	if e == nil {
		return nil, nil
	}
	data, err := r.catalog.File(r.ctx, e, limit)
	if err != nil && usable(err) {
		r.leave(r.app.name, p, err)
		return nil, nil
	}
	return data, err
}

// usable reports whether an error is one of the content, so that the rest can be shown.
func usable(err error) bool {
	switch errkind.KindOf(err) {
	case errkind.Unavailable, errkind.Interrupted:
		return false
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// describe sets the texts of the application, and returns the name or path of its icon.
func (r *reading) describe() (icon string, err error) {
	a := r.app
	entry, err := r.desktopFile()
	if err != nil {
		return "", err
	}
	if a.info, err = r.metainfo(); err != nil {
		return "", err
	}
	a.title, a.about, a.license = local{"": oneLine(a.meta.Title)}, local{"": oneLine(a.meta.Summary)}, oneLine(a.meta.License)
	icon = a.meta.Icon
	if entry != nil {
		if key := entry.Value(desktopentry.Main, "Icon"); icon == "" {
			icon = key
		}
		fill(a.title, entry, "Name")
		fill(a.about, entry, "Comment")
		for _, c := range desktopentry.List(entry.Value(desktopentry.Main, "Categories")) {
			if isWord(c) && len(a.categories) < 20 {
				a.categories = append(a.categories, c)
			}
		}
	}
	merge(a.title, a.info.name)
	merge(a.about, a.info.summary)
	if a.title[""] == "" {
		a.title[""] = a.name
	}
	if a.about[""] == "" {
		a.about[""] = oneLine(a.channels[0][0].Summary)
	}
	if a.license == "" {
		a.license = a.info.license
	}
	if len(a.info.categories) > 0 {
		a.categories = a.info.categories
	}
	return icon, nil
}

// fill takes the texts of a desktop file that are missing.
func fill(l local, f *desktopentry.File, key string) {
	for _, lang := range append([]string{""}, words.Languages...) {
		k := key
		if lang != "" {
			k += "[" + lang + "]"
		}
		if v := oneLine(f.Value(desktopentry.Main, k)); v != "" && l[lang] == "" {
			l[lang] = v
		}
	}
}

// merge adds the texts that are missing.
func merge(l, more local) {
	for lang, s := range more {
		if l[lang] == "" {
			l[lang] = s
		}
	}
}

// desktopFile returns the desktop file of the package's default application, or nil.
func (r *reading) desktopFile() (*desktopentry.File, error) {
	var paths []string
	if d := r.app.meta.App(r.app.meta.DefaultApp()); d != nil && d.Desktop != "" {
		paths = append(paths, d.Desktop)
	}
	for _, d := range r.app.meta.Apps {
		if d.Desktop != "" {
			paths = append(paths, d.Desktop)
		}
	}
	for _, p := range paths {
		data, err := r.file(p, desktopentry.MaxFile)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue
		}
		f, err := desktopentry.Parse(data, desktopentry.Main)
		if err != nil {
			r.leave(r.app.name, p, err)
			continue
		}
		r.app.desktop = path.Base(p)
		return f, nil
	}
	return nil, nil
}

// metainfo returns the AppStream metadata of the package: that of an application with windows
// if there is one, else the first. It is empty if there is none.
func (r *reading) metainfo() (*metainfo, error) {
	var paths []string
	for p := range r.files {
		for _, share := range shareDirs {
			for _, dir := range []string{share + "/metainfo/", share + "/appdata/"} {
				name, ok := strings.CutPrefix(p, dir)
				if ok && !strings.Contains(name, "/") && (strings.HasSuffix(name, ".metainfo.xml") || strings.HasSuffix(name, ".appdata.xml")) {
					paths = append(paths, p)
				}
			}
		}
	}
	slices.Sort(paths)
	found := &metainfo{}
	for i, p := range paths[:min(len(paths), 20)] {
		data, err := r.file(p, maxMetainfo)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue
		}
		info, err := parseMetainfo(data)
		if err != nil {
			r.leave(r.app.name, p, err)
			continue
		}
		if i == 0 || found.id == "" || info.desktop && !found.desktop {
			found = info
		}
	}
	return found, nil
}

// icon puts the icon into the site: a PNG of at least 64 pixels, else an SVG, else what is there.
func (r *reading) icon(name string) error {
	for _, p := range r.iconPaths(name) {
		data, err := r.file(p, maxIcon)
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		var pic *picture
		if strings.HasSuffix(p, ".svg") {
			pic, err = vector(data)
		} else {
			pic, err = raster(data, iconSide, iconSide)
		}
		if err != nil {
			r.leave(r.app.name, p, err)
			continue
		}
		if pic.ext != ".svg" {
			r.app.iconSide = max(pic.width, pic.height)
		}
		r.app.icon, err = r.write("icons", pic)
		return err
	}
	return nil
}

// iconPaths returns the files that an icon may be in, the best first.
func (r *reading) iconPaths(name string) (paths []string) {
	if strings.Contains(name, "/") {
		paths = append(paths, strings.TrimPrefix(name, "/"))
		name = strings.TrimSuffix(path.Base(name), path.Ext(name))
	}
	names := []string{name, strings.TrimSuffix(r.app.desktop, ".desktop"), r.app.name}
	for _, n := range names {
		if n == "" {
			continue
		}
		for _, share := range shareDirs {
			theme := share + "/icons/hicolor/"
			for _, size := range []string{"128x128", "256x256", "192x192", "512x512", "96x96", "64x64"} {
				paths = append(paths, theme+size+"/apps/"+n+".png")
			}
			paths = append(paths, theme+"scalable/apps/"+n+".svg")
			for _, size := range []string{"48x48", "32x32"} {
				paths = append(paths, theme+size+"/apps/"+n+".png")
			}
			paths = append(paths, share+"/pixmaps/"+n+".png", share+"/pixmaps/"+n+".svg")
		}
	}
	return slices.DeleteFunc(paths, func(p string) bool { return r.files[p] == nil })
}

// screens puts the screenshots of the package into the site: the pictures in share/screenshots,
// in the order and with the captions of the AppStream metadata.
func (r *reading) screens() error {
	a := r.app
	var inside []string
	for p := range r.files {
		for _, share := range shareDirs {
			name, ok := strings.CutPrefix(p, share+"/screenshots/")
			if ok && !strings.Contains(name, "/") && slices.Contains([]string{".png", ".jpg", ".jpeg"}, path.Ext(name)) {
				inside = append(inside, p)
			}
		}
	}
	slices.Sort(inside)
	add := func(p string, caption local) error {
		data, err := r.file(p, maxScreen)
		if err != nil || data == nil {
			return err
		}
		pic, err := raster(data, screenTo, 2*screenTo)
		if err != nil {
			r.leave(a.name, p, err)
			return nil
		}
		s := screen{width: pic.width, height: pic.height, caption: caption}
		if s.path, err = r.write("screenshots", pic); err == nil {
			a.screens = append(a.screens, s)
		}
		return err
	}
	for _, s := range a.info.shots {
		i := slices.IndexFunc(inside, func(p string) bool { return path.Base(p) == s.name })
		if i < 0 {
			if s.url != "" {
				a.otherPictures = append(a.otherPictures, s)
			}
			continue
		}
		if err := add(inside[i], s.caption); err != nil {
			return err
		}
		inside = slices.Delete(inside, i, i+1)
	}
	for _, p := range inside {
		if len(a.screens) == maxScreens {
			break
		}
		if err := add(p, local{}); err != nil {
			return err
		}
	}
	return nil
}
