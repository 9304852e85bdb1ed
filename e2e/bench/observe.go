package main

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/inotify"
	"github.com/lull/lull/e2e/rig"
)

// sighting is an event in a directory, and when it was seen.
type sighting struct {
	name string
	mask uint32
	at   int64 // CLOCK_MONOTONIC, in nanoseconds
}

// observe reports the events of a directory until the scene is over. An event is seen
// as late as this process wakes up, for every cause.
func observe(tb rig.TB, dir string, mask uint32) <-chan sighting {
	w, err := inotify.New()
	if err == nil {
		_, err = w.Add(dir, mask|unix.IN_ONLYDIR)
	}
	if err != nil {
		tb.Fatalf("cannot watch %s: %v", dir, err)
	}
	seen := make(chan sighting, 4096) // of a whole scene: the writer never waits for the reader
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			events, err := w.Read()
			at := now()
			if err != nil {
				return
			}
			for _, e := range events {
				select {
				case seen <- sighting{e.Name, e.Mask, at}:
				case <-tb.Context().Done():
				}
			}
		}
	}()
	tb.Cleanup(func() {
		w.Close()
		<-done
	})
	return seen
}

// now is CLOCK_MONOTONIC, which C programs read too.
func now() int64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// await returns the next sighting of a name with an event of the mask.
func await(tb rig.TB, seen <-chan sighting, name string, mask uint32) sighting {
	late := time.After(time.Minute)
	for {
		select {
		case s := <-seen:
			if s.name == name && s.mask&mask != 0 {
				return s
			}
		case <-late:
			tb.Fatalf("%s has not been seen within a minute", name)
		case <-tb.Context().Done():
			tb.Fatalf("interrupted")
		}
	}
}

// forget drops what was seen so far.
func forget(seen <-chan sighting) {
	for {
		select {
		case <-seen:
		default:
			return
		}
	}
}
