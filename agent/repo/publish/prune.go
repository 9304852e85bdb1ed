package publish

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo"
)

// PruneOptions select the content that remains in a repository.
type PruneOptions struct {
	Common
	// Offered reports whether a channel of a package continues to offer pkg, its newest
	// one. Older offers remain if their package is kept.
	Offered func(name, channel string, pkg digest.Digest) bool
	// Kept are further packages whose blobs remain.
	Kept []digest.Digest
}

// Pruned is the result of Prune.
type Pruned struct {
	Channels int
	Blobs    int
	Bytes    int64 // compressed
}

// Prune deletes channels and offers that are no longer needed, and then the blobs that
// neither a channel nor a kept package needs. A reader sees the metadata without a channel
// before its blobs are deleted. The next Prune deletes the rest of an interrupted one.
func Prune(ctx context.Context, dir string, o PruneOptions) (p Pruned, err error) {
	keys, now, err := o.open(dir)
	if err != nil {
		return p, err
	}
	release, err := lock(ctx, dir)
	if err != nil {
		return p, err
	}
	defer release()
	s, err := load(dir, keys, o.Expires, now, false)
	if err != nil {
		return p, err
	}
	roots := slices.Clone(o.Kept)
	pointers := map[string]bool{} // files below channels, relative to dir
	changed := false
	paths, err := s.targetPaths()
	if err != nil {
		return p, err
	}
	for _, path := range paths {
		name, channel, ok := repo.SplitPointerPath(path)
		if !ok {
			continue
		}
		list, err := s.offers(name, channel)
		if err != nil {
			return p, err
		}
		if !o.Offered(name, channel, list[0].Package) {
			if err := s.setTarget(path, nil); err != nil {
				return p, err
			}
			p.Channels++
			changed = true
			continue
		}
		kept := list[:1]
		for _, older := range list[1:] {
			if slices.Contains(o.Kept, older.Package) {
				kept = append(kept, older)
			}
		}
		if len(kept) < len(list) {
			if err := s.writeOffers(kept); err != nil {
				return p, err
			}
			changed = true
		}
		files, err := s.files(name, channel)
		if err != nil {
			return p, err
		}
		for _, f := range files {
			pointers[f] = true
		}
		for _, offer := range kept {
			roots = append(roots, offer.Package)
		}
	}
	if changed {
		if err := s.writeAll(); err != nil {
			return p, err
		}
	}
	needed := map[digest.Digest]bool{}
	for _, pkg := range roots {
		if err := closure(dir, pkg, needed); err != nil {
			return p, err
		}
	}
	err = s.deleteRest(ctx, pointers, needed, &p)
	return p, err
}

// closure adds a package, its blobs and its subpackages to needed. A kept package that is not
// in the repository adds nothing.
func closure(dir string, pkg digest.Digest, needed map[digest.Digest]bool) error {
	if needed[pkg] {
		return nil
	}
	m, _, err := readMeta(dir, pkg)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	needed[pkg] = true
	for _, b := range m.Blobs() {
		needed[b.Digest] = true
	}
	for _, sub := range m.Subpackages {
		if err := closure(dir, sub, needed); err != nil {
			return err
		}
	}
	return nil
}

// deleteRest deletes the pointers and blobs that are not needed, and empty directories.
func (s *state) deleteRest(ctx context.Context, pointers map[string]bool, needed map[digest.Digest]bool, p *Pruned) error {
	return errors.Join(s.eachFile(ctx, "channels", func(rel string, _ fs.DirEntry) error {
		if pointers[rel] {
			return nil
		}
		return durable.Remove(filepath.Join(s.dir, rel))
	}), s.eachFile(ctx, "blobs", func(rel string, d fs.DirEntry) error {
		hash, err := digest.Parse(strings.TrimSuffix(filepath.Base(rel), filepath.Ext(rel)))
		if err != nil || filepath.FromSlash(repo.BlobPath(hash)) != rel || needed[hash] {
			return nil // needed, or not a blob or pointer
		}
		info, err := d.Info()
		if err == nil {
			err = os.Remove(filepath.Join(s.dir, rel))
		}
		if err != nil {
			return err
		}
		p.Blobs++
		p.Bytes += info.Size()
		return nil
	}))
}

// eachFile calls do with all files below a directory of the repository. It removes
// directories that are empty afterwards.
func (s *state) eachFile(ctx context.Context, sub string, do func(rel string, d fs.DirEntry) error) error {
	top := filepath.Join(s.dir, sub)
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != top {
				dirs = append(dirs, path)
			}
			return nil
		}
		rel, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		return do(rel, d)
	})
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot prune the repository %s: %w", s.dir, err)
	}
	for _, dir := range slices.Backward(dirs) {
		_ = os.Remove(dir) // fails if it is not empty
	}
	return nil
}
