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
	env := os.Environ()
	if r != nil {
		if slices.ContainsFunc(r.pidfds, alive) {
			return nil, fmt.Errorf("cannot start %s again: %w", instance, ErrOpen)
		}
		env = append(env, r.env...) // the last one counts
	}
	launcher, err := Launcher()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(launcher, instance)
	cmd.Env = append(env, more...)
	if home, err := os.UserHomeDir(); err == nil {
		cmd.Dir = home
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s again: %w", instance, err)
	}
	return cmd.Process, nil
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

// environ reads those of a process. This one's own may lack them: it can have
// been started before the desktop.
func environ(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil
	}
	out := []string{}
	for entry := range strings.SplitSeq(string(b), "\x00") {
		name, _, _ := strings.Cut(entry, "=")
		if slices.Contains(kept, name) || strings.HasPrefix(name, "LC_") {
			out = append(out, entry)
		}
	}
	return out
}
