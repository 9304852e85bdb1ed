// Package userdata is where the data of one user of one instance lies, and how a
// revision gets its own from the revision before. The launcher and the session
// helper use it, both as the user; the agent never does.
//
// Words: the folder of a revision is <Base>/<rev>. It appears by one rename, is
// whole from then on, and is only made when that revision is current for good:
// by Bring. Until then there is at the most a partial folder beside it, which
// Precopy leaves and Bring completes. The ancestor of a revision is the nearest
// before it, by the agent's .from files, of which the user has data.
//
// Whoever writes here holds the lock of the instance's data, a lock on a file of
// the user's: so launches of one user take turns, and the helper with them.
// Nothing here keeps state; a Place may be used from several goroutines.
package userdata

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/datacopy"
	"github.com/lull/lull/agent/problem"
)

// Place is the data of one user of one instance.
type Place struct {
	Root     string // the agent's
	Base     string // ~/.local/share/lull/<instance>
	Instance string
}

// Of returns the place below a home folder.
func Of(root, home, instance string) Place {
	return Place{Root: root, Base: filepath.Join(home, ".local", "share", "lull", instance), Instance: instance}
}

// Home is where the user's data lies. Root does not write into the home of
// somebody else, as which HOME may stand after sudo.
func Home() (string, error) {
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", problem.New(problem.Failed, "HOME is %q, which is no absolute path", home)
	}
	if os.Getuid() != 0 {
		return home, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(home, &st); err != nil {
		return "", problem.New(problem.Failed, "%s: %w", home, err)
	}
	if st.Uid != 0 {
		return "", problem.New(problem.NotPermitted, "the home folder %s belongs to another user", home).
			WithHint("run it as that user, or with HOME=/root")
	}
	return home, nil
}

// Common is the folder of what all revisions share.
func (p Place) Common() string { return filepath.Join(p.Base, "common") }

// Revision is the folder of one revision's data.
func (p Place) Revision(rev uint32) string { return filepath.Join(p.Base, number(rev)) }

// Has says whether there is data of a revision.
func (p Place) Has(rev uint32) bool {
	st, err := os.Lstat(p.Revision(rev))
	return err == nil && st.IsDir()
}

func number(rev uint32) string { return strconv.FormatUint(uint64(rev), 10) }

// Lock makes the user's launches and the helper take turns. If somebody else
// has the lock, it calls waits, where that is not nil, and waits. Where
// there is no data at all there is no lock, fs.ErrNotExist.
func (p Place) Lock(ctx context.Context, waits func()) (unlock func(), err error) {
	path := filepath.Join(p.Base, ".lock")
	fail := func(err error) (func(), error) {
		return nil, problem.New(problem.KindOf(err), "its data cannot be locked: %s: %w", path, err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fail(err)
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &whole)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		if waits != nil {
			waits()
		}
		if err := lockWaiting(ctx, fd); err != nil {
			return fail(err)
		}
		return func() { unix.Close(fd) }, nil
	}
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return func() { unix.Close(fd) }, nil
}

// lockWaiting waits for the lock; on an error it closes fd. The kernel's wait
// cannot be called off: when the context ends before it, the lock is let go of as
// soon as it comes.
func lockWaiting(ctx context.Context, fd int) error {
	done := make(chan error, 1)
	go func() {
		whole := unix.Flock_t{Type: unix.F_WRLCK}
		for {
			if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLKW, &whole); !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			unix.Close(fd)
		}
		return err
	case <-ctx.Done():
		go func() {
			<-done
			unix.Close(fd)
		}()
		return context.Cause(ctx)
	}
}

// Ancestor finds the revision whose data rev takes over; 0: none. Where the
// chain is broken, because the agent has forgotten a revision, the youngest of
// the user's that is older than the gap is taken.
func (p Place) Ancestor(rev uint32) uint32 {
	seen := map[uint32]bool{rev: true}
	for at := rev; ; {
		before, err := p.from(at)
		if err != nil || seen[before] {
			return p.youngestBefore(at)
		}
		if before == 0 || p.Has(before) {
			return before
		}
		seen[before] = true
		at = before
	}
}

// from reads which revision's data rev has taken over; 0: none. It is an error
// if nothing is known of rev any more.
func (p Place) from(rev uint32) (uint32, error) {
	link := filepath.Join(p.Root, "revisions", p.Instance, number(rev))
	b, err := os.ReadFile(link + ".from")
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Lstat(link)
		return 0, err
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	return uint32(n), err
}

func (p Place) youngestBefore(rev uint32) (best uint32) {
	entries, err := os.ReadDir(p.Base)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 10, 32)
		if err == nil && n > 0 && n <= math.MaxUint32 && uint32(n) < rev && e.IsDir() {
			best = max(best, uint32(n))
		}
	}
	return best
}

// options are those of every copy to a revision: the launcher and the helper
// take over what the other has left, and so use the same names.
func options(rev uint32) datacopy.Options {
	return datacopy.Options{Partial: "." + number(rev) + datacopy.PartialSuffix}
}

// Bring gives a revision its data, the ancestor's or none, unless it has some.
// With a commit function nothing appears when that returns an error; it is called
// when all is copied. The caller holds the lock.
func (p Place) Bring(ctx context.Context, rev uint32, progress func(done, total int64), commit func() error) error {
	if p.Has(rev) {
		return nil // somebody else was faster
	}
	from := p.Ancestor(rev)
	if from == 0 {
		if commit != nil {
			if err := commit(); err != nil {
				return err
			}
		}
		if err := os.Mkdir(p.Revision(rev), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return problem.New(problem.KindOf(err), "it has no place for its data: %w", err)
		}
		return nil
	}
	o := options(rev)
	o.Progress, o.Commit = progress, commit
	_, err := datacopy.Copy(ctx, p.Revision(from), p.Revision(rev), o)
	return p.explain(err, from, rev)
}

// Precopy does what it can of a later Bring, while the ancestor is in use. It
// also removes what was left for revisions that never came. The caller holds the
// lock.
func (p Place) Precopy(ctx context.Context, rev uint32) error {
	if err := p.Sweep(rev); err != nil {
		return err
	}
	from := p.Ancestor(rev)
	if from == 0 || p.Has(rev) {
		return nil
	}
	_, err := datacopy.Precopy(ctx, p.Revision(from), p.Revision(rev), options(rev))
	return p.explain(err, from, rev)
}

// explain names what could not be copied. A copy that did not fit must not stay
// and take the last of the space that the application needs to go on as it was.
func (p Place) explain(err error, from, rev uint32) error {
	if err == nil {
		return nil
	}
	e := problem.New(problem.KindOf(err), "the data of revision %d cannot be brought over: %w", from, err)
	if e.Kind != problem.NoSpace {
		return e
	}
	if derr := datacopy.Discard(p.Revision(rev), options(rev)); derr != nil {
		return problem.New(problem.NoSpace, "%w, nor can what was copied be removed: %w", e, derr)
	}
	return e.WithHint("it is untouched: make room for a copy of %s, or go back with lull revert %s", p.Revision(from), p.Instance)
}

// Sweep removes the partial folders of all revisions but one (0: of all). The
// caller holds the lock.
func (p Place) Sweep(keep uint32) error {
	entries, err := os.ReadDir(p.Base)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".new"), ".index")
		name, partial := strings.CutSuffix(name, datacopy.PartialSuffix)
		name, hidden := strings.CutPrefix(name, ".")
		n, perr := strconv.ParseUint(name, 10, 32)
		if !partial || !hidden || perr != nil || uint32(n) == keep {
			continue
		}
		err = errors.Join(err, datacopy.Discard(p.Revision(uint32(n)), options(uint32(n))))
	}
	return err
}
