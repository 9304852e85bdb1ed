// Package userdata is where the data of one user of one instance is, and how a
// revision gets its own from the revision before. The launcher, the session helper and
// the command line use it, all as the user; the agent never does.
//
// Words: the data of a revision is a directory below Base, called by the revision's
// number, or by the number and the first digits of the store's identity where another
// store's data has that name already. It appears by one rename, is whole from then on,
// and is only made when that revision is current for good. Until then there is at the
// most a partial directory beside it, which Precopy leaves and Bring completes.
//
// A record beside each directory, <Base>/.lull/<name>.json, identifies its owner: which
// stores use it for which of their revisions and which package, which data it was
// copied from, and a counter. Each copy, and each launch in a directory that was not
// the one used last, gets a number above all others, so that the highest counter is the
// newest data, whatever the clocks of the machines that share the home.
//
// The ancestor of a revision is the nearest before it, by the agent's .from files, of
// which the user has data; or what another store has used since, if that is newer.
// Data without a record was made before there were records. It belongs to the store
// that had given the number out by then (storeid.ID.Adopt), else to an unknown one.
// Another store's data is never renamed, changed or removed, only copied; and used as
// it is where it is the newest and of the very same package.
//
// A writer holds the lock of the instance's data, a lock on a file of the
// user's: launches of one user take turns, and the helper with them.
// Nothing here keeps state; a Place may be used from several goroutines.
package userdata

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/storeid"
)

// Place is the data of one user of one instance.
type Place struct {
	Root     string // the agent's
	Base     string // ~/.local/share/lull/<instance>
	Instance string

	store storeid.ID // of the root; zero: unknown, and all data of the right number counts as its own
	// old is where the data of an agent of one user's own was before it had
	// its own directory; empty means nowhere.
	old string
}

// Of returns the place below a home directory, or below the directory of the agent
// for the agent of one user. A store without an identity, or with an
// unreadable one, has the zero one until its agent has restarted: it does not
// prevent a launch.
func Of(root, home, instance string) Place {
	base := filepath.Join(home, ".local", "share", "lull", instance)
	p := Place{Root: root, Base: base, Instance: instance}
	id, err := storeid.Read(root)
	if err != nil {
		return p
	}
	p.store = id
	if id.UserData != "" {
		p.Base = filepath.Join(id.UserData, instance)
		if id.Adopt[instance] > 0 && p.Base != base {
			p.old = base
		}
	}
	return p
}

// Common is the directory of what all revisions share.
func (p Place) Common() string { return filepath.Join(p.Base, "common") }

func number(rev uint32) string { return strconv.FormatUint(uint64(rev), 10) }

// Lock makes the user's launches and the helper take turns. If another process has
// the lock, it calls waits, where that is not nil, and waits. Where there is no data
// at all there is no lock, fs.ErrNotExist.
func (p Place) Lock(ctx context.Context, waits func()) (unlock func(), err error) {
	path := filepath.Join(p.Base, ".lock")
	fail := func(err error) (func(), error) {
		return nil, errkind.New(errkind.KindOf(err), "its data cannot be locked: %s: %w", path, err)
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
// cannot be cancelled: when the context ends before it, the lock is released as soon
// as it is granted.
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
