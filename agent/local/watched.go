package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/agent/lib/errkind"
)

// Watched are the repositories of this machine with the packages of watched directories. They
// are used like replicas: a read converts the files that are new.
type Watched struct{ Replicas }

// watched is the state of a watched directory. It is the file state.json.
type watched struct {
	Dir    string             `json:"dir"`    // another directory resets the state
	Files  map[string]dropped `json:"files"`  // by name
	Offers map[string]string  `json:"offers"` // versions, by name of the package
}

// dropped is the result of the conversion of one file.
type dropped struct {
	Stamp     stamp  `json:"stamp"`
	Refused   string `json:"refused,omitempty"`   // why it was not published
	Converter int    `json:"converter,omitempty"` // version of the converter that refused it
}

// stamp changes when a file does.
type stamp struct {
	Inode    uint64 `json:"inode"`
	Size     int64  `json:"size"`     // bytes
	Modified int64  `json:"modified"` // nanoseconds
	Changed  int64  `json:"changed"`  // nanoseconds
}

// TryDir returns an error if a directory cannot be watched.
func TryDir(dir string) error {
	d, err := openDrop(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.list()
	return err
}

// FollowDir converts the new files of a directory, and publishes the newest version of each
// package. failed has the error of each file that could not be published, by name. A file
// that a process is writing is left to the next read. The directory and its files are
// checked by descriptor (openDrop). Kind NotPermitted: others than root can write them.
func (m *Watched) FollowDir(ctx context.Context, name, dir string) (failed map[string]error, err error) {
	mine, done, err := m.turn(ctx, name)
	if err != nil {
		return nil, err
	}
	defer done()
	return inTime(mine, name, func(limited context.Context) (map[string]error, error) { return m.followDir(limited, name, dir) })
}

// followDir is FollowDir for a caller that holds the turn.
func (m *Watched) followDir(ctx context.Context, name, dir string) (map[string]error, error) {
	if !m.Store(name).Made() {
		return nil, errkind.New(errkind.NotFound, "cannot read repository %q: its packages are gone", name)
	}
	st, err := m.readWatched(name, dir)
	if err != nil {
		return nil, err
	}
	d, err := openDrop(dir)
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot read repository %q: %w", name, err)
	}
	defer d.Close()
	names, err := d.list()
	if err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot read repository %q: %w", name, err)
	}
	failed, before := map[string]error{}, maps.Clone(st.Files)
	for _, file := range names {
		err := m.file(ctx, name, d, file, st)
		if errkind.Is(err, errkind.Interrupted) {
			return failed, err
		}
		if err != nil {
			failed[file] = err
			if before[file] != st.Files[file] || st.Files[file].Refused == "" {
				m.Log.Warn("a file in a watched directory is no version", "repository", name, "file", filepath.Join(dir, file), "error", err)
			}
		}
	}
	maps.DeleteFunc(st.Files, func(file string, _ dropped) bool { return !slices.Contains(names, file) })
	if maps.Equal(before, st.Files) {
		return failed, nil
	}
	return failed, m.writeWatched(name, st)
}

// file converts one file, unless it has been converted.
func (m *Watched) file(ctx context.Context, repository string, d *drop, file string, st *watched) error {
	f, at, err := d.open(file)
	if errors.Is(err, errWriting) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return errkind.New(errkind.KindOf(err), "cannot use %s: %w", file, err)
	}
	defer f.Close()
	last, known := st.Files[file]
	switch known = known && last.Stamp == at; {
	case known && last.Refused == "":
		return nil
	case known && last.Converter == convert.Version:
		return errkind.New(errkind.Invalid, "%s", last.Refused)
	}
	err = m.convertDropped(ctx, repository, f, file, at, st)
	switch {
	case errors.Is(err, errWriting):
		return nil
	case err == nil:
		st.Files[file] = dropped{Stamp: at}
	case errkind.Is(err, errkind.Invalid), errkind.Is(err, errkind.Conflict), errkind.Is(err, errkind.NotPermitted):
		st.Files[file] = dropped{Stamp: at, Refused: err.Error(), Converter: convert.Version}
	default:
		return err
	}
	return errors.Join(err, m.writeWatched(repository, st))
}

// convertDropped makes a package of a file and publishes it, unless a newer version of the
// package is offered.
func (m *Watched) convertDropped(ctx context.Context, repository string, f *os.File, file string, at stamp, st *watched) error {
	if err := ValidName(file); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(m.Local.Root, scratchPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	to := filepath.Join(scratch, file)
	hash, err := m.copyDropped(ctx, f, to)
	if err != nil {
		return err
	}
	if now, err := stampOf(f); err != nil || now != at {
		return errors.Join(err, errWriting) // the end of the change is an event
	}
	src, err := m.Convert(ctx, []Input{fetched{to, hash}}, Options{Unattended: true})
	if err != nil {
		return err
	}
	defer func() {
		if err := src.Remove(); err != nil {
			m.Log.Warn("cannot delete what was made of a file", "repository", repository, "file", file, "error", err)
		}
	}()
	name, version := src.Launch.Name, src.Launch.Version
	if len(src.Rights) > 0 { // no user can confirm them here
		return errkind.New(errkind.NotPermitted, "cannot use %s: %s asks for rights that are not confirmed: %s", file, name, src.Rights[0])
	}
	if offered := st.Offers[name]; offered != "" && Older(version, offered) {
		m.Log.Info("a file in a watched directory has an older version", "repository", repository, "file", file, "package", name, "version", version, "offered", offered)
		return nil
	}
	m.Log.Info("a new version is converted", "repository", repository, "package", name, "version", version, "file", file, "remarks", src.Found.Remarks,
		"scripts that do not run", src.Found.Scripts, "needs", src.Found.Needs)
	if _, err := m.Store(repository).Publish(ctx, src, "stable", "", nil); err != nil {
		return err
	}
	st.Offers[name] = version
	return nil
}

// copyDropped copies a file, so that it does not change while it is converted.
func (m *Watched) copyDropped(ctx context.Context, from *os.File, to string) (hash digest.Digest, err error) {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return hash, err
	}
	defer out.Close()
	h := digest.New()
	for total := int64(0); ; {
		if err := m.Local.MayWrite(chunk); err != nil {
			return hash, err
		}
		n, err := io.CopyN(io.MultiWriter(out, h), from, chunk)
		switch total += n; {
		case ctx.Err() != nil:
			return hash, errkind.New(errkind.Interrupted, "cannot read %s: %w", filepath.Base(to), context.Cause(ctx))
		case total > convert.MaxBytes:
			return hash, errkind.New(errkind.Invalid, "cannot use %s: it has more than %d bytes", filepath.Base(to), int64(convert.MaxBytes))
		case errors.Is(err, io.EOF):
			return digest.From(h), out.Close()
		case err != nil:
			return hash, err
		}
	}
}

// Offered lists the packages that a watched directory has brought, sorted.
func (m *Watched) Offered(name, dir string) ([]string, error) {
	st, err := m.readWatched(name, dir)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(st.Offers)), nil
}

// readWatched returns the state of a watched directory. A damaged file is an error: without
// it, an older version could replace a newer one.
func (m *Watched) readWatched(name, dir string) (*watched, error) {
	path := filepath.Join(m.dir(name), "state.json")
	st := &watched{}
	b, err := os.ReadFile(path)
	if err == nil && len(b) > maxState {
		err = fmt.Errorf("it has more than %d bytes", maxState)
	}
	if err == nil {
		err = json.Unmarshal(b, st)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errkind.New(errkind.Failed, "cannot read repository %q: cannot read %s: %w", name, path, err).
			WithHint("`lull repo remove %s`, and `lull repo add`, start over", name)
	}
	if st.Dir != dir || st.Files == nil || st.Offers == nil {
		st = &watched{Dir: dir, Files: map[string]dropped{}, Offers: map[string]string{}}
	}
	return st, nil
}

func (m *Watched) writeWatched(name string, st *watched) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(m.dir(name), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(m.dir(name), "state.json"), append(b, '\n'), 0o600)
}
