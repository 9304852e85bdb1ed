package repositories

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/inotify"
)

// stepGone has the events after which the path of a file or directory on the way to a
// repository no longer leads to it.
const stepGone = unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_DONT_FOLLOW

// WatchLocal watches the repositories in local directories, and the directories whose files
// become packages. It sends on changed after a publication, which replaces the timestamp last,
// or when such a file is complete (closed or renamed), and on moved if a path leads elsewhere,
// so that other watches are needed. It also sends on changed if a source has changed since it
// was last read: the change may be earlier than the watch, or than this process. Both channels
// have capacity 1. Nil means that there is nothing to watch.
func (r *Set) WatchLocal(changed, moved chan<- struct{}) (stop func()) {
	r.mu.Lock()
	dirs := map[string]string{}
	dropped := map[string]bool{} // names of repositories
	for name, c := range r.clients {
		switch dir := c.client.Watch(); {
		case c.Watch != "":
			dirs[name], dropped[name] = c.Watch, true
		case dir != "" && c.Apt == nil: // a replica changes while it is read
			dirs[name] = dir
		}
	}
	r.mu.Unlock()
	if len(dirs) == 0 {
		return nil
	}
	w, err := inotify.New()
	if err != nil {
		r.Log.Warn("local repositories are checked by schedule only", "error", err)
		return nil
	}
	metadata := map[int]bool{}           // watches of directories with a timestamp
	missing := map[int]map[string]bool{} // watches of directories that lack a name
	drops := map[int]bool{}              // watches of directories whose files become packages
	tell := func(c chan<- struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
	}
	for name, dir := range dirs {
		err := watchWay(w, dir, func(watch int, lacks string) {
			if lacks == "" && dropped[name] {
				drops[watch] = true
				return
			}
			if lacks == "" {
				metadata[watch] = true
				return
			}
			if missing[watch] == nil {
				missing[watch] = map[string]bool{}
			}
			missing[watch][lacks] = true
		})
		if err != nil {
			r.Log.Warn("a local repository is checked by schedule only", "repository", name, "error", err)
		}
		if r.changedSinceRead(name, dir, dropped[name]) {
			tell(changed)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			events, err := w.Read()
			if err != nil {
				return // closed
			}
			for _, e := range events {
				switch {
				case e.Overflow(), e.Mask&(unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_UNMOUNT) != 0, missing[e.Watch][e.Name]:
					tell(moved)
				case metadata[e.Watch] && strings.HasPrefix(e.Name, "timestamp"), drops[e.Watch] && e.Name != "" && !strings.HasPrefix(e.Name, "."):
					tell(changed)
				}
			}
		}
	}()
	return func() { w.Close(); <-done }
}

// clockStep is more than the time by which the times of files are behind the clock.
const clockStep = time.Second

// changedSinceRead reports whether a local source has changed since its last reading began.
// Without a reading, the next check is the first one.
func (r *Set) changedSinceRead(name, dir string, dropped bool) bool {
	read, err := os.Stat(r.readFile(name))
	if err != nil {
		return false
	}
	paths := []string{filepath.Join(dir, "timestamp.json")}
	if dropped {
		files, err := os.ReadDir(dir)
		if err != nil {
			return false // the next check reports it
		}
		paths = []string{dir}
		for _, f := range files {
			if !strings.HasPrefix(f.Name(), ".") {
				paths = append(paths, filepath.Join(dir, f.Name()))
			}
		}
	}
	for _, path := range paths {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && time.Unix(st.Ctim.Unix()).After(read.ModTime().Add(-clockStep)) {
			return true
		}
	}
	return false
}

// watchWay watches dir for new files, and each directory and symlink of its path for moves
// and deletion. If a name of the path is missing, it watches the last existing directory for
// that name. It calls added with the watch of dir, or with the watch of that directory and
// the missing name.
func watchWay(w *inotify.Watcher, dir string, added func(watch int, lacks string)) error {
	const puts = unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE | unix.IN_ONLYDIR | unix.IN_MASK_ADD
	at, links := "/", 0
	rest := strings.Split(strings.Trim(filepath.Clean(dir), "/"), "/")
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		step := filepath.Join(at, name)
		fi, err := os.Lstat(step)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() && fi.Mode()&fs.ModeSymlink == 0 {
			watch, err := w.Add(at, unix.IN_MOVED_TO|unix.IN_CREATE|unix.IN_ONLYDIR|unix.IN_MASK_ADD)
			if err != nil {
				return err
			}
			added(watch, name)
			// It may have been created before the watch.
			if fi, err := os.Lstat(step); err == nil && (fi.IsDir() || fi.Mode()&fs.ModeSymlink != 0) {
				return watchWay(w, dir, added)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Add(step, stepGone|unix.IN_MASK_ADD); err != nil {
			return err
		}
		if fi.IsDir() {
			at = step
			continue
		}
		target, err := os.Readlink(step)
		if err != nil {
			return err
		}
		if links++; links > 40 {
			return &os.PathError{Op: "watch", Path: dir, Err: unix.ELOOP}
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	watch, err := w.Add(at, puts)
	if err == nil {
		added(watch, "")
	}
	return err
}
