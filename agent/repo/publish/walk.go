package publish

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/meta"
	"github.com/lull/lull/agent/problem"
)

// walk lists the files of a package source: entries, those of files still
// without blob and size. Folders are listed only when nothing lies in them.
func walk(src string) ([]meta.Entry, error) {
	var entries []meta.Entry
	err := filepath.WalkDir(src, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, full)
		if err != nil || rel == "." || rel == SourceFile {
			return err
		}
		e, keep, err := entryOf(full, filepath.ToSlash(rel), d)
		if err == nil && keep {
			entries = append(entries, e)
		}
		return err
	})
	return entries, err
}

func entryOf(full, rel string, d fs.DirEntry) (e meta.Entry, keep bool, err error) {
	refuse := func(why string) (meta.Entry, bool, error) {
		return e, false, problem.New(problem.Invalid, "cannot publish %s: it is %s", full, why)
	}
	info, err := d.Info()
	if err != nil {
		return e, false, err
	}
	e.Path = rel
	switch mode := info.Mode(); {
	case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 && mode.IsRegular():
		return refuse("set-user-id or set-group-id, which no package may have")
	case mode.IsRegular():
		e.Exec = mode&0o111 != 0
		return e, true, nil
	case mode.IsDir():
		e.Type = meta.TypeDir
		empty, err := isEmpty(full)
		return e, empty, err
	case mode&fs.ModeSymlink != 0:
		e.Type = meta.TypeSymlink
		if e.Symlink, err = os.Readlink(full); err != nil {
			return e, false, err
		}
		if path.IsAbs(e.Symlink) {
			return refuse("a symlink to the absolute path " + e.Symlink)
		}
		if !filepath.IsLocal(path.Join(path.Dir(rel), e.Symlink)) {
			return refuse("a symlink that leaves the package, to " + e.Symlink)
		}
		return e, true, nil
	case mode&fs.ModeNamedPipe != 0:
		return refuse("a fifo")
	case mode&fs.ModeSocket != 0:
		return refuse("a socket")
	case mode&fs.ModeDevice != 0:
		return refuse("a device")
	}
	return refuse("neither file nor folder nor symlink")
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// openFile opens what was a regular file when the source was listed.
func openFile(full string) (*os.File, int64, error) {
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = changed(full)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func changed(full string) error {
	return problem.New(problem.Failed, "cannot publish %s: it has changed meanwhile", full)
}
