package manager

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/inotify"
)

// zoneEvents are those of a file that is changed, or replaced by another one. A symbolic link
// is watched itself.
const zoneEvents = unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_DONT_FOLLOW

// followZone calls changed whenever the file with the machine's time zone is replaced or
// written, until Close: windows of the policy are in that zone. Without inotify the next
// evaluation of a window uses the new zone.
func (m *Manager) followZone(path string, changed func()) {
	in, err := inotify.New()
	if err == nil {
		_, err = in.Add(path, zoneEvents)
	}
	if err != nil {
		if in != nil {
			in.Close()
		}
		if !errors.Is(err, os.ErrNotExist) { // without the file the zone is UTC
			m.Log.Info("a change of the time zone is noticed late", "error", err)
		}
		return
	}
	m.wg.Go(func() {
		<-m.ctx.Done()
		in.Close()
	})
	m.wg.Go(func() {
		for {
			if _, err := in.Read(); err != nil {
				return
			}
			// Another file may have taken its place. If none has, the zone stays.
			_, _ = in.Add(path, zoneEvents)
			changed()
		}
	})
}
