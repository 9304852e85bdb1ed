package restart

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/userd/notify"
)

// Launcher finds lull-run: LULL_LAUNCHER, beside this program, or in PATH.
func Launcher() (string, error) {
	if path := os.Getenv("LULL_LAUNCHER"); path != "" {
		return path, nil
	}
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), "lull-run")
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("lull-run")
	if err != nil {
		return "", fmt.Errorf("cannot find the launcher: %w", err)
	}
	return path, nil
}

// ErrOpen reports that the application has not ended and is not started twice.
var ErrOpen = errors.New("it is still open")

// Launch restarts the applications of the instance that ran, each in a session of its own,
// unless one has not ended; more is added to their environment. The caller reaps the
// processes that it returns, also with an error.
func (a *Again) Launch(instance string, more ...string) (started []*os.Process, err error) {
	a.mu.Lock()
	r := a.runs[instance]
	delete(a.runs, instance)
	a.mu.Unlock()
	defer r.release()
	apps := []place{{}}
	if r != nil {
		if slices.ContainsFunc(r.pidfds, alive) {
			return nil, fmt.Errorf("cannot restart %s: %w", instance, ErrOpen)
		}
		if len(r.apps) > 0 {
			apps = r.apps
		}
	}
	for _, p := range apps {
		process, err2 := p.start(instance, more)
		if err2 != nil {
			err = errors.Join(err, fmt.Errorf("cannot restart %s: %w", instance, err2))
			continue
		}
		started = append(started, process)
	}
	return started, err
}

// start starts an application where it ran before.
func (p place) start(instance string, more []string) (*os.Process, error) {
	args := []string{instance}
	if p.app != "" {
		args = []string{"--app", p.app, instance}
	}
	cmd, err := launcher(args...)
	if err != nil {
		return nil, err
	}
	cmd.Env = append(append(cmd.Env, p.env...), more...) // the last one counts
	if st, err := os.Stat(p.dir); err == nil && st.IsDir() {
		cmd.Dir = p.dir
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Process, nil
}

// quitHook is the hook that a package may have for this.
const quitHook = "quit"

// launcher is a call of lull-run in a session of its own, at home.
func launcher(args ...string) (*exec.Cmd, error) {
	path, err := Launcher()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Env = os.Environ()
	if home, err := os.UserHomeDir(); err == nil {
		cmd.Dir = home
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// alive reports whether the process of a pidfd has not ended: then it is not
// readable.
func alive(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 0
}

// kept are the variables that lead a desktop application to its desktop.
var kept = []string{
	"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS",
	"XDG_CURRENT_DESKTOP", "XDG_SESSION_TYPE", "XDG_SESSION_ID", "XDG_SESSION_DESKTOP", "XDG_SEAT", "XDG_RUNTIME_DIR",
	"LANG", "LANGUAGE", "GTK_IM_MODULE", "QT_IM_MODULE", "XMODIFIERS",
}

// placeOf returns where an application runs, to start the new one there: its desktop, its
// directory, and its name in the package. The environment of this process may lack the
// desktop: it can have been started before. ok is false if the process cannot be read.
func placeOf(pid int) (p place, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return place{}, false
	}
	for entry := range strings.SplitSeq(string(b), "\x00") {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(kept, name) || strings.HasPrefix(name, "LC_") {
			p.env = append(p.env, entry)
		}
		if name == "LULL_APP" {
			p.app = entry[len("LULL_APP="):]
		}
	}
	// Not one in the package's tree: the next one has another.
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && !strings.Contains(dir, "/packages/") {
		p.dir = dir
	}
	return p, true
}

// maxApps bounds how many applications of one package are restarted.
const maxApps = 16

// remember records where an application runs. Of the processes of one application the first
// counts.
func (r *run) remember(pid int) {
	p, ok := placeOf(pid)
	if ok && len(r.apps) < maxApps && !slices.ContainsFunc(r.apps, func(q place) bool { return q.app == p.app }) {
		r.apps = append(r.apps, p)
	}
}

// env is what leads to the desktop of the first application.
func (r *run) env() []string {
	if len(r.apps) == 0 {
		return nil
	}
	return r.apps[0].env
}

// Desktop returns the environment that leads to the desktop of the application that p
// waits for, as NAME=VALUE; nil if none of its processes can be read.
func Desktop(p notify.Pending) []string {
	for _, q := range p.Processes {
		if p, ok := placeOf(int(q.PID)); ok {
			return p.env
		}
	}
	return nil
}

// App returns the name of the application of its package that a process is, or "" if that
// cannot be read.
func App(pid uint32) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return ""
	}
	for entry := range strings.SplitSeq(string(b), "\x00") {
		if app, ok := strings.CutPrefix(entry, "LULL_APP="); ok {
			return app
		}
	}
	return ""
}
