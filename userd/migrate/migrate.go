// Package migrate brings the user's data from one revision to the next, for package
// work. It holds the lock of the data while it does, so that launches wait for it
// and it waits for them.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/lull/lull/userd/sessionjobs"
	"github.com/lull/lull/userd/userdata"
)

// Runner do the jobs of the data lane.
type Runner struct{}

// Do implements sessionjobs.Runner.
func (Runner) Do(ctx context.Context, j sessionjobs.Job) error {
	home, _, err := userdata.Home()
	if err != nil {
		return err
	}
	p := userdata.Of(j.Root, home, j.Instance)
	unlock, err := p.Lock(ctx, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the user has never used it
	}
	if err != nil {
		return err
	}
	defer unlock()
	switch j.Do {
	case sessionjobs.CopyAhead:
		return p.Precopy(ctx, j.To)
	case sessionjobs.Discard:
		return p.Sweep(0)
	}
	swept := p.Sweep(j.To)
	// Without an ancestor the first launch makes an empty directory.
	if err := p.Migrate(ctx, j.To, nil, func() error { return stillCurrent(j) }); err != nil {
		return err
	}
	return errors.Join(swept, p.Prune(j.To))
}

// stillCurrent makes sure that the directory of a revision appears only while
// the revision is current. The agent announces it before it goes back to
// another one, but the copy may have been faster.
func stillCurrent(j sessionjobs.Job) error {
	link := filepath.Join(j.Root, "current", j.Instance)
	target, err := os.Readlink(link)
	if err != nil {
		return err
	}
	if filepath.Base(target) != strconv.FormatUint(uint64(j.To), 10) {
		return fmt.Errorf("the data of %s is left as it is: revision %d is not current any more", j.Instance, j.To)
	}
	return nil
}
