package publish

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/sysmanifest"
)

// System is the system that a published update brings.
type System struct {
	Version             string
	Images, Base, Cache []Reference
	Unchecked           bool // no base package has a health hook
}

// readSystem reads the system.json of a source.
func readSystem(srcDir string) (*sysmanifest.Source, error) {
	f, _, err := openFile(filepath.Join(srcDir, sysmanifest.Name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, sysmanifest.MaxSize+1))
	if err != nil {
		return nil, err
	}
	s, err := sysmanifest.ParseSource(text)
	return &s, err
}

// resolveSystem checks the system.json of a source. If that has names, the batch gets the
// file with hashes in their place. Nil means that the source is no update of the system.
func (p *publication) resolveSystem(ctx context.Context, srcDir string, d *description, l *lister, b *batch) (*System, error) {
	if !slices.ContainsFunc(l.entries, func(e manifest.Entry) bool { return e.Path == sysmanifest.Name && e.IsFile() }) {
		for _, hook := range slices.Sorted(maps.Keys(d.Hooks)) {
			if manifest.IsSystemHook(hook) {
				return nil, errkind.New(errkind.Invalid, "cannot use the hook %s of %s: only an update of the system, which has a %s, has such a hook", hook, d.Name, sysmanifest.Name)
			}
		}
		return nil, nil
	}
	src, err := readSystem(srcDir)
	if err != nil {
		return nil, err
	}
	if len(src.Images) > 0 && len(d.Hooks[manifest.HookPreRefresh]) == 0 {
		return nil, errkind.New(errkind.Invalid, "cannot use %s of %s: it has images, and lull.yaml has no %s hook that installs them", sysmanifest.Name, d.Name, manifest.HookPreRefresh).
			WithHint("lull-hooks(7) describes the hook")
	}
	sys := &System{Version: src.Version, Unchecked: true}
	named := false
	for key, list := range map[string]struct {
		from []string
		to   *[]Reference
	}{"images": {src.Images, &sys.Images}, "base": {src.Base, &sys.Base}, "cache": {src.Cache, &sys.Cache}} {
		names := map[string]string{}
		for i, text := range list.from {
			r, err := parseReference(text)
			var found Reference
			var m *manifest.Meta
			switch {
			case err != nil:
			case r.path != "":
				err = errkind.Errorf("a path cannot be used here: want a hash or NAME@CHANNEL")
			default:
				if found, err = p.find(ctx, srcDir, r, 0); err == nil {
					m, _, err = readMeta(ctx, p.s.store, found.Package)
				}
			}
			if err == nil && key != "images" {
				if other := names[m.Name]; other != "" {
					err = errkind.Errorf("%s is the same package", other)
				}
				names[m.Name] = text
			}
			if err != nil {
				return nil, errkind.New(errkind.Invalid, "cannot use %s of %s: %s: %.160q: %w", sysmanifest.Name, d.Name, key, text, err).WithHint("%s", errkind.HintOf(err))
			}
			if key == "base" && len(m.Hooks[manifest.HookHealth]) > 0 {
				sys.Unchecked = false
			}
			named = named || r.name != ""
			list.from[i] = found.Package.String()
			*list.to = append(*list.to, found)
		}
	}
	text, err := src.Encode()
	if err == nil {
		_, err = sysmanifest.Parse(text) // a name and a hash may be the same package
	}
	if err != nil || !named {
		return sys, err
	}
	path := filepath.Join(b.tmp, sysmanifest.Name)
	b.replaced = map[string]string{sysmanifest.Name: path}
	return sys, os.WriteFile(path, text, 0o600)
}
