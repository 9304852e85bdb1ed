package runctl

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

// Lock is a lock that is held. It dies with the process, and does not pass on
// through exec.
type Lock struct {
	mu sync.Mutex
	fd int // -1 once unlocked

	// Of an exclusive lock.
	dir      *Dir
	instance string
	failed   uint64 // attempts of others, when this one was had
}

// Unlock releases the lock. The agent's watch of the directory sees it if it
// was a read lock, or if another goroutine of this process has tried to get
// the exclusive lock meanwhile. A second call does nothing.
func (l *Lock) Unlock() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd < 0 {
		return nil
	}
	fd := l.fd
	l.fd = -1
	if l.dir == nil {
		return unix.Close(fd)
	}
	l.dir.mu.Lock()
	err := unix.Close(fd)
	wanted := l.dir.failed[l.instance] != l.failed
	l.dir.mu.Unlock()
	if wanted {
		err = errors.Join(err, l.dir.sign(l.instance))
	}
	return err
}

// sign opens and closes the lock file for reading, as the release of a read
// lock does: a waiter that came too early retries.
func (d *Dir) sign(instance string) error {
	fd, err := d.open(instance, unix.O_RDONLY)
	if errkind.Is(err, errkind.NotFound) {
		return nil // there is nothing to wait for any more
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Close is Unlock, for an io.Closer.
func (l *Lock) Close() error { return l.Unlock() }

// ReadLock takes the shared lock of an instance, and waits while the agent has
// the exclusive one. Error NotFound: no such instance.
//
// When ctx ends first, the goroutine that sits in fcntl(2) stays until the
// agent releases the lock, a matter of milliseconds, and then unlocks.
func (d *Dir) ReadLock(ctx context.Context, instance string) (*Lock, error) {
	for {
		fd, err := d.open(instance, unix.O_RDONLY)
		if err != nil {
			return nil, err
		}
		err = setlk(fd, unix.F_OFD_SETLK, unix.F_RDLCK)
		if busy(err) {
			err = waitlk(ctx, fd)
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return nil, err // waitlk owns the descriptor now
			}
		}
		if err != nil {
			unix.Close(fd)
			return nil, errkind.New(errkind.KindOf(err), "cannot lock %s: %w", d.LockPath(instance), err)
		}
		if d.same(fd, instance) {
			return &Lock{fd: fd}, nil
		}
		unix.Close(fd)
	}
}

// waitlk waits for the read lock. If ctx ends first the descriptor is closed
// when the wait is over.
func waitlk(ctx context.Context, fd int) error {
	done := make(chan error, 1)
	go func() { done <- setlk(fd, unix.F_OFD_SETLKW, unix.F_RDLCK) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		go func() {
			<-done
			unix.Close(fd)
		}()
		return ctx.Err()
	}
}

// TryWriteLock takes the exclusive lock of an instance without waiting. When
// others have a lock that counts (see Launchers), the Lock is nil, as is the
// error, and holders are their process IDs, as far as they can be found.
func (d *Dir) TryWriteLock(instance string) (l *Lock, holders []int, err error) {
	for {
		fd, err := d.open(instance, unix.O_RDWR)
		if err != nil {
			return nil, nil, err
		}
		failed, err := d.setExclusive(fd, instance)
		switch {
		case busy(err):
			pids, herr := lockers(fd, d.LockPath(instance))
			counted := d.counted(instance, pids)
			if herr != nil || len(counted) > 0 {
				unix.Close(fd)
				return nil, slices.DeleteFunc(counted, func(pid int) bool { return pid == 0 }), herr
			}
			// The holder may have released it meanwhile.
			if failed, err = d.setExclusive(fd, instance); err == nil && d.same(fd, instance) {
				return &Lock{fd: fd, dir: d, instance: instance, failed: failed}, nil, nil
			}
			there := d.same(fd, instance)
			if busy(err) && there {
				// Perhaps another has it by now: check those too.
				l, holders, err := d.pass(fd, instance)
				unix.Close(fd)
				return l, holders, err
			}
		case err != nil:
			unix.Close(fd)
			return nil, nil, errkind.New(errkind.KindOf(err), "cannot lock %s: %w", d.LockPath(instance), err)
		case d.same(fd, instance):
			return &Lock{fd: fd, dir: d, instance: instance, failed: failed}, nil, nil
		}
		unix.Close(fd)
	}
}

// setExclusive tries to get the lock, and counts it if others have it: the
// goroutine of this process that releases it then gives a sign. Under one
// mutex, so that no failure is unseen.
func (d *Dir) setExclusive(fd int, instance string) (failed uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err = setlk(fd, unix.F_OFD_SETLK, unix.F_WRLCK); busy(err) {
		if d.failed == nil {
			d.failed = map[string]uint64{}
		}
		d.failed[instance]++
	} else if err == nil {
		d.forgetLocked(instance)
	}
	return d.failed[instance], err
}

// Holders returns the processes that hold any lock of the instance, the
// caller's own included.
func (d *Dir) Holders(instance string) ([]int, error) {
	fd, err := d.open(instance, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return lockers(fd, d.LockPath(instance))
}

func (d *Dir) open(instance string, flags int) (int, error) {
	if err := check(instance); err != nil {
		return -1, err
	}
	for {
		fd, err := unix.Open(d.LockPath(instance), flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, fs.ErrNotExist):
			return -1, errkind.New(errkind.NotFound, "cannot find an installed %q", instance)
		default:
			return -1, errkind.New(errkind.KindOf(err), "cannot open %s: %w", d.LockPath(instance), err)
		}
	}
}

// same reports whether fd is still the instance's lock file: it may have been
// removed and re-created while this call waited for the lock.
func (d *Dir) same(fd int, instance string) bool {
	var have, want unix.Stat_t
	if unix.Fstat(fd, &have) != nil || unix.Lstat(d.LockPath(instance), &want) != nil {
		return false
	}
	return have.Ino == want.Ino && have.Dev == want.Dev
}

func setlk(fd, cmd int, typ int16) error {
	for {
		// The whole file; the pid must be 0 for locks of a file description.
		err := unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: typ, Whence: unix.SEEK_SET})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func busy(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) }
