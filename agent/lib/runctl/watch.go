package runctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/inotify"
)

// Kind is what happened to an instance's files.
type Kind int

// The kinds of Event.
const (
	LookAtAll    Kind = iota // events were lost; Instance is ""
	LockReleased             // a launcher released the lock, or the release agent gave a sign
	RunningMade
	RunningGone
	Inhibition     // .inhibited was made, changed or removed
	Installed      // the lock file was made
	Removed        // the lock file is gone
	TetherReleased // a tether was closed for the last time by those who shared it; the kernel may need a moment to agree
)

var kindNames = [...]string{"look-at-all", "lock-released", "running-made", "running-gone", "inhibition", "installed", "removed", "tether-released"}

func (k Kind) String() string { return kindNames[k] }

// Event is a hint that an instance has changed.
type Event struct {
	Instance string
	Kind     Kind
}

// Watch delivers the events of a run-control directory.
type Watch struct {
	events chan Event
	w      *inotify.Watcher
	stop   chan struct{}
	done   chan struct{}
}

// Opening the lock for writing and closing it is what the agent itself and the
// release agent do all the time: IN_CLOSE_WRITE is left out, or the agent would
// wake itself. They give a sign if there is a waiter (see Lock.Unlock).
const watchMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_CLOSE_NOWRITE | unix.IN_MODIFY | unix.IN_ONLYDIR

// Watch starts to watch the directory. The caller checks everything once
// afterwards, and closes it.
func (d *Dir) Watch() (*Watch, error) {
	in, err := inotify.New()
	if err != nil {
		return nil, err
	}
	if _, err := in.Add(d.ctl, watchMask); err != nil {
		in.Close()
		return nil, fmt.Errorf("cannot watch the run-control directory: %w", err)
	}
	w := &Watch{events: make(chan Event), w: in, stop: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w, nil
}

// Events returns the channel of the events. It is closed by Close, and when
// the directory is gone.
func (w *Watch) Events() <-chan Event { return w.events }

// Close ends the watch and waits for its goroutine.
func (w *Watch) Close() error {
	select {
	case <-w.stop:
		return nil
	default:
	}
	close(w.stop)
	err := w.w.Close()
	<-w.done
	return err
}

func (w *Watch) run() {
	defer close(w.done)
	defer close(w.events)
	for {
		events, err := w.w.Read()
		if err != nil {
			return
		}
		for _, e := range events {
			if e.Ended() {
				return
			}
			ev, ok := translate(e)
			if !ok {
				continue
			}
			select {
			case w.events <- ev:
			case <-w.stop:
				return
			}
		}
	}
}

func translate(e inotify.Event) (Event, bool) {
	if e.Overflow() {
		return Event{Kind: LookAtAll}, true
	}
	if instance, _, ok := ParseTether(e.Name); ok {
		return Event{Instance: instance, Kind: TetherReleased}, e.Mask&unix.IN_CLOSE_NOWRITE != 0
	}
	instance, suffix, ok := split(e.Name)
	if !ok {
		return Event{}, false
	}
	ev := Event{Instance: instance}
	made := e.Mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0
	gone := e.Mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0
	switch {
	case suffix == lock && e.Mask&unix.IN_CLOSE_NOWRITE != 0:
		ev.Kind = LockReleased
	case suffix == lock && made:
		ev.Kind = Installed
	case suffix == lock && gone:
		ev.Kind = Removed
	case suffix == running && made:
		ev.Kind = RunningMade
	case suffix == running && gone:
		ev.Kind = RunningGone
	case suffix == inhibited && (made || gone || e.Mask&unix.IN_MODIFY != 0):
		ev.Kind = Inhibition
	default:
		return Event{}, false
	}
	return ev, true
}

// WaitUninhibited waits until the instance has no .inhibited marker, or one
// with a word that the caller may ignore. The caller holds no lock.
func (d *Dir) WaitUninhibited(ctx context.Context, instance string, ignore ...string) error {
	// Look first: a launch that need not wait should not pay for inotify.
	if word, err := d.Inhibited(instance); err != nil || word == "" || slices.Contains(ignore, word) {
		return err
	}
	w, err := d.Watch()
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOSPC) {
		return d.pollUninhibited(ctx, instance, ignore)
	}
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		if word, err := d.Inhibited(instance); err != nil || word == "" || slices.Contains(ignore, word) {
			return err
		}
		if err := w.next(ctx, instance); err != nil {
			return err
		}
	}
}

// pollEvery is how often a launch checks whether it may go on, if its user has
// exhausted inotify (inotify(7)): the launch must not fail for that.
const pollEvery = time.Second

func (d *Dir) pollUninhibited(ctx context.Context, instance string, ignore []string) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if word, err := d.Inhibited(instance); err != nil || word == "" || slices.Contains(ignore, word) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// next waits for an event that concerns the instance.
func (w *Watch) next(ctx context.Context, instance string) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Events():
			if !ok {
				return fmt.Errorf("cannot wait any longer: the run-control directory is gone")
			}
			if e.Kind == LookAtAll || e.Kind == Inhibition && e.Instance == instance {
				return nil
			}
		}
	}
}
