package runs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/runctl"
)

// The names in the run directory that the release agent uses, which has no
// information but the path it was called by.
const (
	agentLink   = "release-agent"       // to the binary; registered with the kernel
	freezerLink = "freezer"             // to the hierarchy's mount point
	agentSaved  = "release-agent.saved" // what was registered before
)

// newFreezer tracks in the v1 freezer hierarchy. It chooses how the end of a
// run is noticed, the best first: the release agent and inotify; the
// release agent, whose markers are polled; polling.
func newFreezer(ctl *runctl.Dir, l cgroup.Layout, opts Options) (*ownedTracker, error) {
	if l.Freezer == "" {
		return nil, errkind.New(errkind.Unavailable, "cannot use the freezer tracker: no cgroup v1 freezer hierarchy is mounted")
	}
	if err := unix.Access(l.Freezer, unix.W_OK); err != nil {
		return nil, errkind.New(errkind.Unavailable, "cannot use the freezer tracker: %s: %w", l.Freezer, err)
	}
	o := newOwned("freezer", ctl, freezerGroups(l.Freezer), opts)
	var why error // we poll
	if opts.Want == "poll-procs" || opts.Want == "poll" {
		why = errors.New("--tracker=" + opts.Want)
	} else {
		var r *registration
		if r, why = register(l.Freezer, ctl.RunDir(), opts.ReleaseAgent); why == nil {
			o.notify = true
			o.after = r.unregister
		}
	}
	fail := func(err error) (*ownedTracker, error) {
		o.hints.close()
		if o.after != nil {
			err = errors.Join(err, o.after())
		}
		return nil, err
	}
	// Under the lock: events come at once, and find everything in its place.
	o.mu.Lock()
	var noWatch error
	if opts.Want == "poll-runctl" {
		noWatch = errors.New("--tracker=" + opts.Want)
	} else if w, err := runctlEvents(o); err != nil {
		noWatch = err
	} else {
		o.events = w
	}
	switch {
	case why == nil && noWatch == nil:
		o.manner = func() string { return "release agent and inotify" }
	case why == nil:
		o.polls = true
		o.manner = func() string {
			return errkind.Text("release agent; its markers are read every second (no inotify: %v)", noWatch)
		}
		o.events = poll(o, o.marked, o.events)
	default:
		o.polls = true
		o.manner = func() string { return errkind.Text("reading cgroup.procs every second (no release agent: %v)", why) }
		o.events = poll(o, o.instances, o.events)
	}
	o.mu.Unlock()
	if why != nil && opts.Want != "poll-procs" && opts.Want != "poll" {
		o.log.Warn("the end of applications is noticed by polling", messages.Key, messages.Polling, "reason", why)
	}
	if err := o.settleAll(); err != nil {
		o.events.close()
		return fail(err)
	}
	return o, nil
}

// marked are the instances that have a marker, or services, which have none.
func (o *ownedTracker) marked() ([]string, error) {
	running, err1 := o.ctl.AllRunning()
	grouped, err2 := o.instances()
	return append(running, grouped...), errors.Join(err1, err2)
}

// registration is this tracker's hold on the hierarchy's release agent.
type registration struct {
	top, runDir string
	saved       *os.File // locked as long as we live
}

// register makes binary the hierarchy's release agent. A hierarchy has one: a
// foreign one whose owner is alive stays.
func register(top, runDir, binary string) (*registration, error) {
	if binary == "" {
		return nil, errors.New("none was given")
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	if err := unix.Access(binary, unix.X_OK); err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	runDir, err = filepath.Abs(runDir)
	if err != nil {
		return nil, err
	}
	ours := filepath.Join(runDir, agentLink)
	before, err := registered(top)
	if err != nil {
		return nil, err
	}
	if before != ours {
		if before, err = inherit(before); err != nil {
			return nil, err
		}
	}
	r := &registration{top: top, runDir: runDir}
	if r.saved, err = os.OpenFile(filepath.Join(runDir, agentSaved), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	tryLock(r.saved)
	// If it is ours already, it stayed behind in a crash, and so did what was
	// before it.
	if before != ours {
		_, err = r.saved.WriteAt([]byte(before+"\n"), 0)
		err = errors.Join(err, r.saved.Truncate(int64(len(before)+1)))
	}
	for link, target := range map[string]string{agentLink: binary, freezerLink: top} {
		err = errors.Join(err, relink(target, filepath.Join(runDir, link)))
	}
	if err == nil {
		err = writeFile(filepath.Join(top, "release_agent"), ours)
	}
	if err == nil {
		var now string
		if now, err = registered(top); err == nil && now != ours {
			err = fmt.Errorf("the kernel has registered %q", now)
		}
	}
	if err != nil {
		r.saved.Close()
		return nil, err
	}
	return r, nil
}

// inherit returns what must be restored at the end, in place of before. It is
// an error if a living process needs the calls. For another agent of this
// kind, which cannot be asked, the lock on its file shows it: it may have been
// killed.
func inherit(before string) (string, error) {
	if before == "" || unix.Access(before, unix.X_OK) != nil {
		return before, nil
	}
	alive := fmt.Errorf("%s is registered", before)
	if filepath.Base(before) != agentLink {
		return "", alive
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(before), agentSaved), os.O_RDWR, 0)
	if err != nil {
		return "", alive
	}
	defer f.Close()
	if tryLock(f) != nil {
		return "", alive
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return "", alive
	}
	return strings.TrimSpace(string(b)), nil
}

// tryLock takes a lock that ends with the open file, at the latest with us.
func tryLock(f *os.File) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

// unregister puts back what was registered before.
func (r *registration) unregister() error {
	defer r.saved.Close()
	now, err := registered(r.top)
	if err != nil {
		return err
	}
	if now == filepath.Join(r.runDir, agentLink) {
		before, err := io.ReadAll(io.NewSectionReader(r.saved, 0, 1<<20))
		if err != nil {
			return err
		}
		// An empty write does not reach the kernel; it strips the newline.
		if err := writeFile(filepath.Join(r.top, "release_agent"), strings.TrimSpace(string(before))+"\n"); err != nil {
			return fmt.Errorf("cannot take the release agent back: %w", err)
		}
	}
	if err := os.Remove(r.saved.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func registered(top string) (string, error) {
	b, err := os.ReadFile(filepath.Join(top, "release_agent"))
	return strings.TrimSpace(string(b)), err
}

// relink replaces a symlink in the run directory, which is volatile.
func relink(target, link string) error {
	if now, err := os.Readlink(link); err == nil && now == target {
		return nil
	}
	tmp := link + ".new"
	os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}
