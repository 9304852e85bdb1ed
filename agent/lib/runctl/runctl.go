// Package runctl is the run-control directory: the few files through which the
// agent, the launchers and the kernel's release agent agree on who may start
// and when nothing runs.
//
//	<run-dir>/runctl/lull.<instance>.lock       exists for every installed instance, 0644
//	<run-dir>/runctl/lull.<instance>.running    while a run of the application exists
//	<run-dir>/runctl/lull.<instance>.inhibited  one word: why launches wait
//	<run-dir>/runctl/lull.<instance>.<hash16>.open  the tether: every process of the application has it open, 0644
//
// The lock files carry open-file-description locks (F_OFD_SETLK, fcntl(2)): a
// read lock needs read access only, a write lock write access. So every user
// can keep a launch's place, and only root (or, rootless, the agent's own user)
// can be exclusive. A launcher holds the read lock from before it checks
// .inhibited until it has joined its run; the agent holds the
// write lock while it reads the truth from cgroupfs and writes .inhibited.
// Neither ever sees the other half-way.
//
// Everything is on a volatile file system and means nothing after a reboot, so
// nothing is fsynced. The agent is the only writer of .inhibited;
// .running is made by the agent and removed by it or by the release agent under
// the write lock. The package keeps no state of its own: all methods may be
// called from any goroutine. Only ReadLock and WaitUninhibited block.
package runctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/words"
)

// The words that .inhibited may hold.
const (
	RefreshPending    = words.RefreshPending
	RefreshInProgress = words.RefreshInProgress
	RefreshStarting   = words.RefreshStarting
)

const (
	folder     = "runctl"
	namePrefix = "lull."
	lock       = ".lock"
	running    = ".running"
	inhibited  = ".inhibited"
	tether     = ".open"
)

// Dir is a run-control directory.
type Dir struct {
	run, ctl string

	mu     sync.Mutex           // makes an attempt at, and the end of, an exclusive lock one with its count
	failed map[string]uint64    // attempts that failed, by instance; guarded by mu
	seen   map[holder]time.Time // since when processes were found to have a lock; guarded by mu

	tethering sync.Mutex
	tethers   map[string]Tether // by file name, whose status was read; guarded by tethering

	launchers *Launchers // nil means that every lock counts

	marking sync.Mutex        // orders changes of .inhibited by this process
	words   map[string]string // what it has written there, by instance; guarded by marking
}

// Create makes the run-control directory below runDir, which it makes too, and
// opens it. For the agent.
func Create(runDir string) (*Dir, error) {
	d := &Dir{run: runDir, ctl: filepath.Join(runDir, folder)}
	if err := os.MkdirAll(d.ctl, 0o755); err != nil {
		return nil, errkind.New(errkind.KindOf(err), "cannot make the run-control directory: %w", err)
	}
	// Regardless of the umask: launchers of all users read here.
	for _, p := range []string{d.run, d.ctl} {
		if err := os.Chmod(p, 0o755); err != nil {
			return nil, errkind.New(errkind.KindOf(err), "cannot make the run-control directory: %w", err)
		}
	}
	return d, nil
}

// Open opens the run-control directory below runDir. Error NotFound: no agent
// has ever run there since the machine started.
func Open(runDir string) (*Dir, error) {
	d := &Dir{run: runDir, ctl: filepath.Join(runDir, folder)}
	st, err := os.Stat(d.ctl)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errkind.New(errkind.NotFound, "cannot find the run-control directory %s", d.ctl)
	case err != nil:
		return nil, errkind.New(errkind.KindOf(err), "cannot open the run-control directory: %w", err)
	case !st.IsDir():
		return nil, errkind.New(errkind.Failed, "cannot open the run-control directory: %s is a file", d.ctl)
	}
	return d, nil
}

// RunDir returns the run directory, the parent of Path.
func (d *Dir) RunDir() string { return d.run }

// Path returns the directory of the markers.
func (d *Dir) Path() string { return d.ctl }

// LockPath returns the path of the instance's lock file.
func (d *Dir) LockPath(instance string) string { return d.path(instance, lock) }

// RunningPath returns the path of the marker of a live run.
func (d *Dir) RunningPath(instance string) string { return d.path(instance, running) }

// InhibitedPath returns the path of the marker that makes launches wait.
func (d *Dir) InhibitedPath(instance string) string { return d.path(instance, inhibited) }

// InhibitedPath is Dir.InhibitedPath for callers that have the run directory alone.
func InhibitedPath(runDir, instance string) string {
	return filepath.Join(runDir, folder, namePrefix+instance+inhibited)
}

func (d *Dir) path(instance, suffix string) string {
	return filepath.Join(d.ctl, namePrefix+instance+suffix)
}

// check refuses names that would leave the directory. The full rules for names
// are enforced at the installation.
func check(instance string) error {
	if instance == "" || len(instance) > 200 || strings.ContainsAny(instance, "/\x00") {
		return errkind.New(errkind.Invalid, "cannot use %.80q as the name of an instance", instance)
	}
	return nil
}

// split splits the name of a file in the directory; ok is false for others.
func split(name string) (instance, suffix string, ok bool) {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return "", "", false
	}
	for _, s := range []string{lock, running, inhibited} {
		if instance, ok := strings.CutSuffix(rest, s); ok && instance != "" {
			return instance, s, true
		}
	}
	return "", "", false
}

// Instances returns the instances that have a lock file, sorted.
func (d *Dir) Instances() ([]string, error) { return d.having(lock) }

// AllRunning returns the instances that have a .running marker, sorted.
func (d *Dir) AllRunning() ([]string, error) { return d.having(running) }

// AllInhibited returns the instances that have an .inhibited marker, sorted.
func (d *Dir) AllInhibited() ([]string, error) { return d.having(inhibited) }

func (d *Dir) having(suffix string) ([]string, error) {
	entries, err := os.ReadDir(d.ctl)
	if err != nil {
		return nil, fmt.Errorf("cannot list the run-control directory: %w", err)
	}
	var instances []string
	for _, e := range entries {
		if i, s, ok := split(e.Name()); ok && s == suffix {
			instances = append(instances, i)
		}
	}
	return instances, nil
}

// CreateInstance makes the lock file of an instance; one that is there stays,
// with the locks on it.
func (d *Dir) CreateInstance(instance string) error {
	if err := check(instance); err != nil {
		return err
	}
	return touch(d.LockPath(instance))
}

// RemoveInstance removes the files of an instance. The caller holds the
// write lock: a launcher that waits for a lock file which is gone by the time
// it gets the lock starts over, and finds nothing.
func (d *Dir) RemoveInstance(instance string) error {
	if err := check(instance); err != nil {
		return err
	}
	d.marking.Lock()
	defer d.marking.Unlock()
	delete(d.words, instance)
	tethers, err := d.Tethers(instance)
	for _, t := range tethers {
		err = errors.Join(err, remove(d.TetherPath(instance, t.Prefix)))
	}
	return errors.Join(err, remove(d.RunningPath(instance)), remove(d.InhibitedPath(instance)), remove(d.LockPath(instance)))
}

// Running reports whether the .running marker exists. It is a hint for users
// and for inotify; the authority is cgroupfs.
func (d *Dir) Running(instance string) (bool, error) {
	if err := check(instance); err != nil {
		return false, err
	}
	_, err := os.Lstat(d.RunningPath(instance))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SetRunning makes the .running marker; one that is there stays.
func (d *Dir) SetRunning(instance string) error {
	if err := check(instance); err != nil {
		return err
	}
	if err := faultpoint.Hit("runctl.set-running"); err != nil {
		return err
	}
	return touch(d.RunningPath(instance))
}

// ClearRunning removes the .running marker, if there is one.
func (d *Dir) ClearRunning(instance string) error {
	if err := check(instance); err != nil {
		return err
	}
	if err := faultpoint.Hit("runctl.clear-running"); err != nil {
		return err
	}
	return remove(d.RunningPath(instance))
}

// Inhibited returns the word of the .inhibited marker, "" where there is none.
// A marker that is not one of the words counts as RefreshInProgress: launches
// wait in doubt.
func (d *Dir) Inhibited(instance string) (string, error) {
	if err := check(instance); err != nil {
		return "", err
	}
	b, err := os.ReadFile(d.InhibitedPath(instance))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ELOOP):
		return RefreshInProgress, nil // nothing of ours, and in doubt launches wait
	case err != nil:
		return "", fmt.Errorf("cannot read why launches wait: %w", err)
	}
	switch word := strings.TrimSpace(string(b)); word {
	case RefreshPending, RefreshStarting:
		return word, nil
	}
	return RefreshInProgress, nil
}

// SetInhibited makes launches wait, or changes the word for the reason. The
// caller holds the write lock when the marker is new.
func (d *Dir) SetInhibited(instance, word string) error {
	if err := check(instance); err != nil {
		return err
	}
	switch word {
	case RefreshPending, RefreshInProgress, RefreshStarting:
	default:
		return fmt.Errorf("internal error: %q is no reason to inhibit launches", word)
	}
	d.marking.Lock()
	defer d.marking.Unlock()
	return d.inhibit(instance, word)
}

// RestoreInhibited rewrites the marker of this process if it was removed or changed
// by hand, and reports whether it did.
func (d *Dir) RestoreInhibited(instance string) (restored bool, err error) {
	if err := check(instance); err != nil {
		return false, err
	}
	d.marking.Lock()
	defer d.marking.Unlock()
	want := d.words[instance]
	if want == "" {
		return false, nil
	}
	if b, err := os.ReadFile(d.InhibitedPath(instance)); err == nil && string(b) == want+"\n" {
		return false, nil
	}
	err = d.inhibit(instance, want)
	return err == nil, err
}

// inhibit writes the marker. The caller holds marking.
func (d *Dir) inhibit(instance, word string) error {
	if err := faultpoint.Hit("runctl.inhibit"); err != nil {
		return err
	}
	// A new file each time: no reader gets half a word.
	tmp := filepath.Join(d.ctl, ".new."+instance+inhibited)
	if err := os.WriteFile(tmp, []byte(word+"\n"), 0o644); err != nil {
		return fmt.Errorf("cannot inhibit launches: %w", err)
	}
	if err := errors.Join(os.Chmod(tmp, 0o644), faultpoint.Hit("runctl.inhibit-rename")); err != nil {
		os.Remove(tmp)
		return fmt.Errorf("cannot inhibit launches: %w", err)
	}
	err := os.Rename(tmp, d.InhibitedPath(instance))
	if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EEXIST) {
		if err = remove(d.InhibitedPath(instance)); err == nil {
			err = os.Rename(tmp, d.InhibitedPath(instance))
		}
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("cannot inhibit launches: %w", err)
	}
	if d.words == nil {
		d.words = map[string]string{}
	}
	d.words[instance] = word
	return nil
}

// ClearInhibited lets launches go on.
func (d *Dir) ClearInhibited(instance string) error {
	if err := check(instance); err != nil {
		return err
	}
	d.marking.Lock()
	defer d.marking.Unlock()
	if err := faultpoint.Hit("runctl.uninhibit"); err != nil {
		return err
	}
	err := remove(d.InhibitedPath(instance))
	if err == nil {
		delete(d.words, instance)
	}
	return err
}

// InhibitedSince returns when the marker was written; zero where there is none.
func (d *Dir) InhibitedSince(instance string) (time.Time, error) {
	st, err := os.Lstat(d.InhibitedPath(instance))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return st.ModTime(), nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if errors.Is(err, syscall.EISDIR) {
		if err = remove(path); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot write a marker: %w", err)
	}
	return errors.Join(f.Chmod(0o644), f.Close())
}

// remove removes a file of any type in the place of a marker: the directory is
// root's, and nothing in it outlives a reboot.
func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, syscall.ENOTEMPTY) {
		err = os.RemoveAll(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove a marker: %w", err)
	}
	return nil
}
