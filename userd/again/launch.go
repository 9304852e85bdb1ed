package again

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

// ErrOpen says that the application has not ended and is not started twice.
var ErrOpen = errors.New("it is still open")

// Launch starts the instance's application again, in a session of its own,
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
			return nil, fmt.Errorf("cannot start %s again: %w", instance, ErrOpen)
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
		return nil, fmt.Errorf("cannot start %s again: %w", instance, err)
	}
	return cmd.Process, nil
}

// refreshPending is the hook that a package may have for this.
const refreshPending = "refresh-pending"

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

// alive says whether the process of a pidfd has not ended: then it is not
// readable.
func alive(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 0
}

// kept are the variables that tell a desktop application where its desktop is.
var kept = []string{
	"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS",
	"XDG_CURRENT_DESKTOP", "XDG_SESSION_TYPE", "XDG_SESSION_ID", "XDG_SESSION_DESKTOP", "XDG_SEAT", "XDG_RUNTIME_DIR",
	"LANG", "LANGUAGE", "GTK_IM_MODULE", "QT_IM_MODULE", "XMODIFIERS",
}

// remember keeps where an application runs, to start the new one there: its
// desktop, its folder, and which of the package's it is. The environment of this
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
