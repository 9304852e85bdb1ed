// Package data brings the user's data from one revision to the next, for package
// work. It holds the lock of the data while it does, so that launches wait for it
// and it waits for them.
package data

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/lull/lull/agent/userdata"
	"github.com/lull/lull/userd/work"
)

// Hands do the jobs of the data lane.
type Hands struct{}

// Do implements work.Hands.
func (Hands) Do(ctx context.Context, j work.Job) error {
	home, err := userdata.Home()
	if err != nil {
		return err
	}
	p := userdata.Of(j.Root, home, j.Instance)
	unlock, err := p.Lock(ctx, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // he has never used it
	}
	if err != nil {
		return err
	}
	defer unlock()
	switch j.Do {
	case work.Ahead:
		return p.Precopy(ctx, j.To)
	case work.Discard:
		return p.Sweep(0)
	}
	if err := p.Sweep(j.To); err != nil {
		return err
	}
	if p.Ancestor(j.To) == 0 {
		return nil // the first launch makes an empty folder
	}
	return p.Bring(ctx, j.To, nil, func() error { return stillCurrent(j) })
}

// stillCurrent makes sure that the folder appears for a revision only while it is
// current. The agent says so before it goes back to another one, but the copy may
// have been faster.
func stillCurrent(j work.Job) error {
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
