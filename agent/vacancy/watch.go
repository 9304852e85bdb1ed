package vacancy

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/inotify"
)

// Watch waits for files to be closed.
type Watch struct {
	in   *inotify.Watcher
	done chan struct{}
}

// maxWatched bounds the files that one watch follows: the close of any one of
// them is reason enough to retry all.
const maxWatched = 64

// WatchClosed calls woken each time that a description of one of the files is closed,
// from a goroutine of its own, until Close. A file that is used through an overlay has
// no such event.
func WatchClosed(files []*File, woken func()) (*Watch, error) {
	in, err := inotify.New()
	if err != nil {
		return nil, err
	}
	for _, f := range files[:min(len(files), maxWatched)] {
		if _, err := in.Add(f.Path, unix.IN_CLOSE); err != nil {
			in.Close()
			return nil, fmt.Errorf("cannot watch a file of the package: %w", err)
		}
	}
	w := &Watch{in, make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			events, err := in.Read()
			if err != nil {
				return
			}
			if len(events) > 0 {
				woken()
			}
		}
	}()
	return w, nil
}

// Close ends the watch and waits for its goroutine. A nil Watch is none.
func (w *Watch) Close() {
	if w == nil {
		return
	}
	w.in.Close()
	<-w.done
}
