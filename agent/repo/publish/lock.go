package publish

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/errkind"
)

// lock takes the lock on a repository's directory, and waits for it if necessary.
func lock(ctx context.Context, dir string) (release func(), err error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, errkind.New(errkind.Invalid, "cannot open the repository %s: %w", dir, err)
	}
	got := make(chan error, 1)
	go func() {
		for {
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
				got <- err
				return
			}
		}
	}()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
			return nil, errkind.New(errkind.Failed, "cannot lock the repository %s: %w", dir, err)
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		// The goroutine ends when the other publisher does.
		go func() {
			<-got
			f.Close()
		}()
		return nil, errkind.New(errkind.Interrupted, "cannot lock the repository %s: %w", dir, ctx.Err())
	}
}
