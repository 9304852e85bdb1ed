package userdata

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/storeid"
)

// Kind is why a directory of user data is there.
type Kind string

// The kinds.
const (
	InUse      Kind = "in-use"     // of the current revision, or shared by all
	Kept       Kind = "kept"       // of a revision that the store keeps, or something needs it
	Superseded Kind = "superseded" // goes with a later launch, or with Clean
	Foreign    Kind = "foreign"    // of another store, or nothing is known of it
	Left       Kind = "left"       // the application is not installed
	Unfinished Kind = "unfinished" // a copy or a removal that goes on, or was cut
)

// Directory is one directory of a user's data.
type Directory struct {
	Instance string
	Path     string
	Kind     Kind
	Bytes    int64 // on the disk
	Missing  []Missing
}

// Survey lists the user's data of all instances below a home directory, for the agent
// with that root. It only reads.
func Survey(ctx context.Context, root, home string) ([]Directory, error) {
	var list []Directory
	err := instances(root, home, func(p Place) error {
		dirs, err := p.survey(ctx)
		list = append(list, dirs...)
		return err
	})
	return list, err
}

// instances calls f with the place of each instance that has data.
func instances(root, home string, f func(Place) error) error {
	top := filepath.Dir(Of(root, home, "x").Base)
	entries, err := os.ReadDir(top)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			err = errors.Join(err, f(Of(root, home, e.Name())))
		}
	}
	return err
}

// currentRevision is the revision in use; 0 if the instance is not installed.
func (p Place) currentRevision() uint32 {
	target, err := os.Readlink(filepath.Join(p.Root, "current", p.Instance))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(filepath.Base(target), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

func (p Place) survey(ctx context.Context) (list []Directory, err error) {
	s, err := p.scan()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p.Base)
	if err != nil {
		return nil, err
	}
	rev := p.currentRevision()
	cur, going := s.current(rev), s.superseded(rev)
	if cur != nil && cur.Runs == 0 {
		going = nil // not yet
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == records {
			continue
		}
		d := Directory{Instance: p.Instance, Path: filepath.Join(p.Base, e.Name()), Kind: Unfinished}
		at := slices.IndexFunc(s.dirs, func(d *dir) bool { return d.base == p.Base && d.name == e.Name() })
		switch {
		case at >= 0:
			d.Kind = s.kind(s.dirs[at], rev, cur, going)
			d.Missing = s.dirs[at].Missing
		case e.Name() == "common" && rev != 0:
			d.Kind = InUse
		case !strings.HasPrefix(e.Name(), "."):
			d.Kind = Left
			if rev != 0 {
				d.Kind = Foreign
			}
		}
		if d.Bytes, err = used(ctx, d.Path); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

func (s *state) kind(d *dir, rev uint32, cur *dir, going []*dir) Kind {
	switch {
	case !d.Complete:
		return Unfinished
	case d == cur && rev != 0:
		return InUse
	case !s.ofStore(d) || d.foreign:
		return Foreign
	case rev == 0:
		return Left
	case slices.Contains(going, d):
		return Superseded
	}
	return Kept
}

// used is what a directory takes on the disk, as far as it can be read; files with
// several names count once.
func used(ctx context.Context, top string) (bytes int64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil || st.Nlink > 1 && st.Mode&unix.S_IFMT == unix.S_IFREG && seen[st.Ino] {
			return nil
		}
		if st.Nlink > 1 {
			seen[st.Ino] = true
		}
		bytes += st.Blocks * 512
		return nil
	})
	return bytes, err
}

// Clean removes superseded data of all instances, by the rules of a launch,
// and the remains of copies and removals, and returns their size in bytes.
func Clean(ctx context.Context, root, home string) (bytes int64, err error) {
	if id, err := storeid.Read(root); err != nil || id.ID == "" {
		return 0, nil
	}
	err = instances(root, home, func(p Place) error {
		before, err := p.survey(ctx)
		if err != nil || !slices.ContainsFunc(before, func(d Directory) bool { return d.Kind == Superseded || d.Kind == Unfinished }) {
			return err
		}
		unlock, err := p.Lock(ctx, nil)
		if err != nil {
			return err
		}
		defer unlock()
		// A precopy for a prepared revision is still wanted.
		wanted := func(name string) bool {
			rev, _ := parseName(name)
			return p.keeps(rev)
		}
		err = errors.Join(p.sweep(wanted), p.Prune(p.currentRevision()))
		for _, d := range before {
			if _, lerr := os.Lstat(d.Path); errors.Is(lerr, fs.ErrNotExist) {
				bytes += d.Bytes
			}
		}
		return err
	})
	return bytes, err
}
