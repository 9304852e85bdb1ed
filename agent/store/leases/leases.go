// Package leases keeps the leases of clients: packages that stay in the store for as
// long as a client has a descriptor open.
//
// Words: a lease is one file in the leases directory, PACKAGE.ID, and a read lock
// (F_OFD_SETLK, fcntl(2)) of one open description of it. The client gets that
// description and the agent closes its own descriptor, so that the lease belongs to
// the client alone: it is alive while a write lock would be refused. It therefore
// outlives the agent, also one that is killed or upgraded. A file without a lock is the
// rest of a lease that has ended, or of one that was never handed out.
//
// The directory is closed to others (0700), and so are the files. The kernel reports
// the end of a description (IN_CLOSE_NOWRITE, inotify(7)) a moment before it removes
// its locks, so that Dir tests the lock after the event and, if it is still there,
// repeats the test later.
//
// Concurrency: Dir is safe for concurrent use. Its mutex is never held while a file or
// the index is used. One goroutine follows the events, or where no inotify instance or
// watch can be had tests all leases once a second; it ends with Close.
package leases

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/accounts"
	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/faultpoint"
	"github.com/lull/lull/agent/lib/inotify"
	"github.com/lull/lull/agent/store/index"
)

// record is the content of a lease's file.
type record struct {
	UID    uint32 `json:"uid"`
	PID    int    `json:"pid"`   // of the process that asked
	Start  uint64 `json:"start"` // of that process, in ticks since the boot (proc_pid_stat(5))
	Holder string `json:"holder"`
}

// Dir is the leases directory.
type Dir struct {
	path    string
	indices *index.Indices
	log     *slog.Logger
	events  *inotify.Watcher // nil if there are none, see poll
	stop    chan struct{}    // closed by Close
	done    chan struct{}

	mu    sync.Mutex
	live  map[string]*live // guarded by mu, by file name
	users map[uint32]int   // guarded by mu: leases and reservations, by accounts.Of
	all   int              // guarded by mu
	again map[string]int   // guarded by mu: tests that have found a lock after the event
	over  bool             // guarded by mu
}

type live struct {
	of    uint32 // the user whose bounds it counts for
	entry *index.Lease
}

// Open opens the directory below the run directory, protects the packages of all live
// leases in the open index, and removes the files of the others. The caller closes it.
func Open(runDir string, indices *index.Indices, log *slog.Logger) (*Dir, error) {
	d := &Dir{path: filepath.Join(runDir, "leases"), indices: indices, log: log, stop: make(chan struct{}), done: make(chan struct{}),
		live: map[string]*live{}, users: map[uint32]int{}, again: map[string]int{}}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep leases: %w", err)
	}
	if err := os.Chmod(d.path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep leases: %w", err)
	}
	err := d.watch() // before the files are read
	if exhausted(err) {
		log.Warn("leases are tested once a second", "error", err)
		err = nil
	}
	if err == nil {
		err = d.adopt()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot keep leases: %w", err), d.unwatch())
	}
	if d.events != nil {
		go d.follow()
	} else {
		go d.poll()
	}
	return d, nil
}

func (d *Dir) watch() error {
	events, err := inotify.New()
	if err != nil {
		return err
	}
	if _, err := events.Add(d.path, unix.IN_CLOSE_NOWRITE|unix.IN_ONLYDIR); err != nil {
		return errors.Join(err, events.Close())
	}
	d.events = events
	return nil
}

func (d *Dir) unwatch() error {
	if d.events == nil {
		return nil
	}
	return d.events.Close()
}

// exhausted reports whether the user, or the machine, has no inotify instance or watch
// left (inotify(7)).
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOSPC)
}

// Close ends the watching. The leases go on.
func (d *Dir) Close() error {
	d.mu.Lock()
	if !d.over {
		close(d.stop)
	}
	d.over = true
	d.mu.Unlock()
	err := d.unwatch()
	<-d.done
	return err
}

// adopt takes over what an earlier agent has handed out.
func (d *Dir) adopt() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		pkg, err := packageOf(e.Name())
		if err != nil {
			d.log.Warn("a file is no lease", "file", filepath.Join(d.path, e.Name()), "error", err)
			continue
		}
		path := filepath.Join(d.path, e.Name())
		locked, b, err := read(path)
		if err != nil {
			return err // doubt would take what a client uses
		}
		if !locked {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		r := record{Holder: "a client of an earlier agent"} // what cannot be read protects all the same
		if err := json.Unmarshal(b, &r); err != nil {
			d.log.Warn("the record of a lease cannot be read", "file", path, "error", err)
		}
		if start, err := startOf(r.PID); err != nil || start != r.Start {
			r.PID = 0 // another process has the descriptor
		}
		of := accounts.Of(r.UID)
		d.live[e.Name()] = &live{of, d.indices.Lease(pkg, r.Holder, r.PID)}
		d.users[of]++
		d.all++
	}
	return nil
}

// follow ends leases after the events of their files.
func (d *Dir) follow() {
	defer close(d.done)
	for {
		events, err := d.events.Read()
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				d.log.Error("the end of leases is not followed any more", "error", err)
			}
			return
		}
		for _, e := range events {
			if e.Overflow() {
				for _, name := range d.names() {
					d.test(name)
				}
			} else if e.Name != "" {
				d.test(e.Name)
			}
		}
	}
}

// pollEvery is how often leases are tested where events are missing.
const pollEvery = time.Second

// poll ends leases without events.
func (d *Dir) poll() {
	defer close(d.done)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
		}
		for _, name := range d.names() {
			d.test(name)
		}
	}
}

// names lists the files of the leases that count as alive.
func (d *Dir) names() (list []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.live {
		list = append(list, name)
	}
	return list
}

// maxTests bounds how often a lease is tested after one event of its file. The pauses
// double from firstPause: together they are about two minutes. A process of root that
// has read the file, a backup for example, causes such an event too.
const (
	maxTests   = 18
	firstPause = time.Millisecond
)

// test ends a lease whose lock has gone.
func (d *Dir) test(name string) {
	path := filepath.Join(d.path, name)
	d.mu.Lock()
	l := d.live[name]
	d.mu.Unlock()
	if l == nil {
		return
	}
	locked, _, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.log.Warn("the file of a lease has been removed: the lease lasts until the agent restarts", "file", path)
		return
	case err != nil:
		d.log.Error("cannot test a lease", "file", path, "error", err)
		locked = true
	}
	d.mu.Lock()
	if d.live[name] != l || d.over {
		d.mu.Unlock()
		return
	}
	if locked && d.events == nil { // the next test comes anyway
		d.mu.Unlock()
		return
	}
	if locked {
		d.again[name]++
		n := d.again[name]
		if n < maxTests {
			time.AfterFunc(firstPause<<(n-1), func() { d.test(name) })
		} else {
			delete(d.again, name)
		}
		d.mu.Unlock()
		return
	}
	delete(d.live, name)
	delete(d.again, name)
	d.mu.Unlock()
	if err := os.Remove(path); err != nil {
		d.log.Warn("cannot remove the file of a lease", "file", path, "error", err)
	}
	l.entry.Close()
	d.give(l.of)
}

// Slot is the right to one lease more, see Reserve.
type Slot struct {
	d    *Dir
	uid  uint32
	of   uint32 // the user whose bounds it counts for
	once sync.Once
}

// Cancel gives the slot back, unless it was used.
func (s *Slot) Cancel() { s.once.Do(func() { s.d.give(s.of) }) }

// Grant makes the lease. The result is the client's end: the caller passes it on and
// closes it. Entry, whose package is protected, belongs to the lease from now on; if
// Grant fails it is closed.
func (s *Slot) Grant(entry *index.Lease, holder string, pid int) (end *os.File, err error) {
	d := s.d
	fail := func(err error) (*os.File, error) {
		entry.Close()
		s.Cancel()
		return nil, fmt.Errorf("cannot open package %s: %w", entry.Package().Short(), err)
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // it does not fail
	name := entry.Package().String() + "." + hex.EncodeToString(id[:])
	path := filepath.Join(d.path, name)
	r := record{UID: s.uid, PID: pid, Holder: holder}
	if r.Start, err = startOf(pid); err != nil {
		r.PID = 0 // it has ended; another process may use its connection
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fail(errors.Join(err, ignoreMissing(os.Remove(path))))
	}
	if err := faultpoint.Hit("leases.recorded"); err != nil {
		return fail(errors.Join(err, os.Remove(path)))
	}
	if end, err = os.Open(path); err != nil {
		return fail(errors.Join(err, os.Remove(path)))
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET}
	if err := unix.FcntlFlock(end.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		return fail(errors.Join(fmt.Errorf("cannot lock %s: %w", path, err), end.Close(), os.Remove(path)))
	}
	d.mu.Lock()
	d.live[name] = &live{s.of, entry} // before the client has it: its close is an event
	d.mu.Unlock()
	s.once.Do(func() {}) // used
	if err := faultpoint.Hit("leases.granted"); err != nil {
		return nil, errors.Join(err, end.Close()) // which ends it
	}
	return end, nil
}

func (d *Dir) give(of uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users[of]--; d.users[of] == 0 {
		delete(d.users, of)
	}
	d.all--
}

// packageOf reads a file's name.
func packageOf(name string) (digest.Digest, error) {
	hash, _, ok := strings.Cut(name, ".")
	if !ok {
		return digest.Digest{}, errors.New("its name is not PACKAGE.ID")
	}
	return digest.Parse(hash)
}

// read reports whether a description of the file has a lock, and what is in it. It
// opens the file for writing too, so that its own close is no event of those that Dir
// follows.
func read(path string) (locked bool, content []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false, nil, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	content, err = io.ReadAll(io.LimitReader(f, 64<<10))
	return lock.Type != unix.F_UNLCK, content, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
