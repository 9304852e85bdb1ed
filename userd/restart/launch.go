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

// Launch restarts the instance's application, in a session of its own,
// unless it has not ended; more is added to its environment. The process that
// it returns is the caller's to reap.
func (a *Again) Launch(instance string, more ...string) (*os.Process, error) {
	a.mu.Lock()
	r := a.runs[instance]
	delete(a.runs, instance)
	a.mu.Unlock()
	defer r.release()
	args := []string{instance}
	if r != nil {
		if slices.ContainsFunc(r.pidfds, alive) {
			return nil, fmt.Errorf("cannot restart %s: %w", instance, ErrOpen)
		}
		if r.app != "" {
			args = []string{"--app", r.app, instance}
		}
	}
	cmd, err := launcher(args...)
	if err != nil {
		return nil, err
	}
	if r != nil {
		cmd.Env = append(cmd.Env, r.env...) // the last one counts
		if st, err := os.Stat(r.dir); err == nil && st.IsDir() {
			cmd.Dir = r.dir
		}
	}
	cmd.Env = append(cmd.Env, more...)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot restart %s: %w", instance, err)
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

// remember records where an application runs, to start the new one there: its
// desktop, its directory, and its name in the package. The environment of this
// process may lack the desktop: it can have been started before.
func (r *run) remember(pid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return
	}
	out := []string{}
	for entry := range strings.SplitSeq(string(b), "\x00") {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(kept, name) || strings.HasPrefix(name, "LC_") {
			out = append(out, entry)
		}
		if name == "LULL_APP" {
			r.app = entry[len("LULL_APP="):]
		}
	}
	r.env = out
	// Not one in the package's tree: the next one has another.
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && !strings.Contains(dir, "/packages/") {
		r.dir = dir
	}
}

// Desktop returns the environment that leads to the desktop of the application that p
// waits for, as NAME=VALUE; nil if none of its processes can be read.
func Desktop(p notify.Pending) []string {
	for _, q := range p.Processes {
		var r run
		if r.remember(int(q.PID)); r.env != nil {
			return r.env
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
