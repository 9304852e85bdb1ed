// Package xdg gives the programs of a package base directories of their own, in the user's
// data of a revision.
//
// Words: a base directory is one of the XDG Base Directory Specification: config, data, state
// or cache. The host's are those that the user's session has. A package's own are
//
//	LULL_USER_DATA/xdg/config, data, state   of the revision
//	LULL_USER_COMMON/cache                   of all revisions
//
// Files of the desktop (manifest.DesktopOwn) are in the package's own directories as
// symlinks to the host's. A program that replaces a file instead of writing to it replaces the
// symlink: the next launch gives the newer one of the two files to the host, keeps the other
// one beside it with Kept behind its name, and makes the symlink again. A directory that a
// program has made before the host had it stays the program's.
//
// The first launch copies the existing profile: the places that the package names, from the
// host's directories. The host's files are never changed by that. The directory xdg appears by
// one rename, complete; a launch that is interrupted before starts again.
//
// All functions work as the user. Prepare needs the lock of the user's data, if other
// processes can prepare the same directories.
package xdg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lull/lull/agent/lib/copytree"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/manifest"
)

// Kept is the end of the name of a file that was replaced by a newer one.
const Kept = ".lull-old"

const (
	top     = "xdg"
	partial = "." + top + copytree.PartialSuffix
	// maxShared bounds a desktop's file that a program has replaced, in bytes.
	maxShared = 16 << 20
)

// Dirs are base directories by their names: cache, config, data, state.
type Dirs map[string]string

// Host returns the host's base directories. env is the environment without a package's
// variables; a variable with a relative path is ignored, as the specification wants, and so is
// one that leads into own or below lull, the directory with all data of packages.
func Host(home, lull string, own Dirs, env []string) Dirs {
	host := Dirs{
		"cache": filepath.Join(home, ".cache"), "config": filepath.Join(home, ".config"),
		"data": filepath.Join(home, ".local/share"), "state": filepath.Join(home, ".local/state"),
	}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		for base, variable := range manifest.BaseDirs {
			if name == variable && filepath.IsAbs(value) && filepath.Clean(value) != own[base] && !strings.HasPrefix(value, lull+"/") {
				host[base] = filepath.Clean(value)
			}
		}
	}
	return host
}

// Own returns the package's own base directories.
func Own(userData, userCommon string) Dirs {
	in := filepath.Join(userData, top)
	return Dirs{
		"cache": filepath.Join(userCommon, "cache"), "config": filepath.Join(in, "config"),
		"data": filepath.Join(in, "data"), "state": filepath.Join(in, "state"),
	}
}

// at is a path that begins with the name of a base directory.
func (d Dirs) at(p string) string {
	base, rest, _ := strings.Cut(p, "/")
	return filepath.Join(d[base], rest)
}

// Result is what a Prepare has done.
type Result struct {
	Imported []string        // paths of the host that were copied
	Lost     []copytree.Skip // data that the copies lack; Path is one of the host
	// Note is an error that does not prevent the use of the directories; nil if there was none.
	Note error
}

// Ready reports whether Prepare has nothing to do.
func Ready(own, host Dirs) bool {
	for _, dir := range own {
		if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
			return false
		}
	}
	for _, s := range manifest.DesktopOwn {
		if step(own.at(s.Path), host.at(s.Path), s) != nothing {
			return false
		}
	}
	return true
}

// Prepare makes the package's own directories. imports are the places of an existing profile,
// copied if there are no directories yet.
func Prepare(ctx context.Context, own, host Dirs, imports []string, progress func(done, total int64)) (Result, error) {
	var r Result
	if _, err := os.Lstat(filepath.Dir(own["config"])); errors.Is(err, fs.ErrNotExist) {
		if err := r.create(ctx, filepath.Dir(own["config"]), host, imports, progress); err != nil {
			return r, err
		}
	}
	for _, dir := range own {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return r, errkind.New(errkind.KindOf(err), "it has no place for its data: %w", err)
		}
	}
	for _, s := range manifest.DesktopOwn {
		if err := share(own.at(s.Path), host.at(s.Path), s); err != nil {
			r.Note = errors.Join(r.Note, err)
		}
	}
	return r, nil
}

// create makes the directory with all but the cache, and copies the existing profile into it.
func (r *Result) create(ctx context.Context, dir string, host Dirs, imports []string, progress func(done, total int64)) error {
	made := filepath.Join(filepath.Dir(dir), partial)
	if err := copytree.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, base := range []string{"config", "data", "state"} {
		if err := os.MkdirAll(filepath.Join(made, base), 0o700); err != nil {
			return errkind.New(errkind.KindOf(err), "it has no place for its data: %w", err)
		}
	}
	for _, p := range imports {
		if err := r.imported(ctx, host.at(p), filepath.Join(made, p), progress); err != nil {
			e := errkind.New(errkind.KindOf(err), "its existing profile cannot be copied: %w", err)
			if rerr := copytree.Remove(made); rerr != nil {
				return errkind.New(e.Kind, "%w, nor can what was copied be removed: %w", e, rerr)
			}
			return e
		}
	}
	if err := faultpoint.Hit("xdg.create.flush"); err != nil {
		return err
	}
	if err := durable.SyncFS(made); err != nil {
		return err
	}
	if err := faultpoint.Hit("xdg.create.rename"); err != nil {
		return err
	}
	return durable.Rename(made, dir)
}

// imported copies one place of the existing profile, if it is there.
func (r *Result) imported(ctx context.Context, from, to string, progress func(done, total int64)) error {
	fi, err := os.Stat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		return nil
	case err != nil:
		return err
	case !fi.IsDir() && !fi.Mode().IsRegular():
		return nil
	}
	real, err := filepath.EvalSymlinks(from) // some users keep all settings in another directory
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	r.Imported = append(r.Imported, from)
	if !fi.IsDir() {
		return copyFile(real, to, fi)
	}
	st, err := copytree.Copy(ctx, real, to, copytree.Options{Progress: progress})
	for _, lost := range st.Lost() {
		lost.Path = filepath.Join(real, lost.Path)
		r.Lost = append(r.Lost, lost)
	}
	return err
}

// copyFile copies a file with its mode and time. The caller flushes it.
func copyFile(from, to string, fi fs.FileInfo) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	if err := errors.Join(err, out.Chmod(fi.Mode().Perm()), out.Close()); err != nil {
		return err
	}
	return os.Chtimes(to, fi.ModTime(), fi.ModTime())
}

// The steps by which an own path becomes a symlink to the host's.
type action int

const (
	nothing  action = iota
	link            // it is missing, or a symlink to another place
	giveBack        // it is a file that a program has put in the place of the symlink
)

func step(own, host string, s manifest.Shared) action {
	fi, err := os.Lstat(own)
	switch {
	case err == nil && fi.Mode()&fs.ModeSymlink != 0:
		if to, err := os.Readlink(own); err == nil && to == host {
			return nothing
		}
		return link
	case err == nil && s.File && fi.Mode().IsRegular() && fi.Size() <= maxShared:
		return giveBack
	case !errors.Is(err, fs.ErrNotExist):
		return nothing
	}
	if at, err := os.Stat(host); s.Make && errors.Is(err, fs.ErrNotExist) || err == nil && at.IsDir() != s.File {
		return link
	}
	return nothing
}

// share makes own a symlink to the host's file or directory.
func share(own, host string, s manifest.Shared) error {
	switch step(own, host, s) {
	case nothing:
		return nil
	case giveBack:
		if err := give(own, host); err != nil {
			return fmt.Errorf("%s stays beside that of the desktop: %w", own, err)
		}
	}
	if s.Make {
		if err := os.MkdirAll(host, 0o700); err != nil {
			return err
		}
	}
	tmp := own + Kept + ".link"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(host, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, own)
}

// give makes the newer one of two files that of the host, and keeps the other one.
func give(own, host string) error {
	mine, err := os.Lstat(own)
	if err != nil {
		return err
	}
	theirs, err := os.Stat(host)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && !mine.ModTime().After(theirs.ModTime()) {
		return os.Rename(own, own+Kept)
	}
	content, rerr := os.ReadFile(own)
	if rerr != nil {
		return rerr
	}
	if err == nil {
		before, err := readFile(host, theirs)
		if err != nil {
			return err
		}
		if bytes.Equal(before, content) {
			return nil
		}
		if err := durable.WriteFile(own+Kept, before, 0o600); err != nil {
			return err
		}
		if host, err = filepath.EvalSymlinks(host); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(host), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(host, content, mine.Mode().Perm())
}

func readFile(path string, fi fs.FileInfo) ([]byte, error) {
	if !fi.Mode().IsRegular() || fi.Size() > maxShared {
		return nil, fmt.Errorf("%s is no file of at most %d MiB", path, maxShared>>20)
	}
	return os.ReadFile(path)
}
