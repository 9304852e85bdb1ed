package publish

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/problem"
)

// lock takes the lock on a repository's folder and waits for whoever has it.
func lock(ctx context.Context, dir string) (release func(), err error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, problem.New(problem.Invalid, "cannot open the repository %s: %w", dir, err)
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
			return nil, problem.New(problem.Failed, "cannot lock the repository %s: %w", dir, err)
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		// The goroutine ends when the other publisher does.
		go func() {
			<-got
			f.Close()
		}()
		return nil, problem.New(problem.Interrupted, "cannot lock the repository %s: %w", dir, ctx.Err())
	}
}
