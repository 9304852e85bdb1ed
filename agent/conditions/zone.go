package conditions

import (
	"errors"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/inotify"
)

// zoneEvents are those of a file that is changed, or replaced by another one. A symbolic link
// is watched itself.
const zoneEvents = unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_DONT_FOLLOW

// WatchZone calls changed whenever the file with the machine's time zone is replaced or
// written: windows of the policy are in that zone. stop ends it, and waits for a call under
// way. A missing file is not an error, and is not watched: the zone is UTC. After an error the
// next evaluation of a window uses the new zone.
func WatchZone(path string, changed func()) (stop func(), err error) {
	in, err := inotify.New()
	if err != nil {
		return func() {}, err
	}
	if _, err := in.Add(path, zoneEvents); err != nil {
		in.Close()
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return func() {}, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if _, err := in.Read(); err != nil {
				return
			}
			// Another file may have taken its place. If none has, the zone stays.
			_, _ = in.Add(path, zoneEvents)
			changed()
		}
	})
	return func() { in.Close(); wg.Wait() }, nil
}
