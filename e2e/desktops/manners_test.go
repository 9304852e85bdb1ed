package desktops_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sameAsTwin opens the application and its twin, and compares the kernel's
// data of the two processes: unit, parent, sessions and groups, terminal,
// signals, limits, rights, descriptors and environment are those that the
// opener gives, but for what is lull's own.
func sameAsTwin(t *testing.T, m *marks, o opener) {
	t.Helper()
	seen := [2]map[string]string{}
	for i, s := range []subject{twin, ours} {
		o.open(s)
		at := m.next(o.name + " starts " + s.id)
		if at.what != "start" || (at.version == "none") != (s == twin) {
			t.Fatalf("%s has started %s with the mark %v, want a start, with version none: %v", o.name, s.id, at, s == twin)
		}
		if o.stays {
			untilStill(t, at.pid)
		}
		if s == ours && !o.stays {
			described(t, o.name, at.pid)
		}
		seen[i] = facts(t, at.pid, s)
		// dbus-daemon's child that has started a service leaves it to the manager soon.
		for end := time.Now().Add(patience); seen[i]["parent"] == "dbus-daemon"; seen[i] = facts(t, at.pid, s) {
			if time.Now().After(end) {
				t.Fatalf("%s: %s: its parent is still %s, want the manager", o.name, s.id, seen[i]["parent"])
			}
			time.Sleep(5 * time.Millisecond)
		}
		m.end(at)
	}
	names := slices.Sorted(maps.Keys(seen[0]))
	for name := range seen[1] {
		if _, ok := seen[0][name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		without, with := seen[0][name], seen[1][name]
		switch {
		case name == "unit" && !o.stays:
			if with != "app-lull-ID-HEX.scope" {
				t.Errorf("%s: it is in %s, want app-lull-ID-HEX.scope, which is no run", o.name, with)
			}
		case without != with:
			t.Errorf("%s: %s is %q with lull, and %q without", o.name, name, with, without)
		}
	}
	t.Logf("%s: %d facts compared; in %s, without lull in %s", o.name, len(names), seen[1]["unit"], seen[0]["unit"])
}

// described checks how systemctl names the scope of the application.
func described(t *testing.T, how string, pid int) {
	t.Helper()
	out, err := asUser("systemctl", "--user", "show", "--property=Description", "--value", unit(pid)).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "Marks ("+app+")" {
		t.Errorf("%s: the description of %s is %q: %v; want no error and %q", how, unit(pid), got, err, "Marks ("+app+")")
	}
}

// untilStill waits until the process is in a unit that has its number: some desktops
// put it there after they have started it.
func untilStill(t *testing.T, pid int) {
	t.Helper()
	// A process that is not moved is in its final place already.
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(unit(pid), strconv.Itoa(pid)) {
			return
		}
	}
}

// unit is the name of the unit that a process is in.
func unit(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err.Error()
	}
	return filepath.Base(strings.TrimSpace(string(b)))
}

var (
	hexes   = regexp.MustCompile(`[0-9a-f]{8,}`)
	numbers = regexp.MustCompile(`[0-9]+`)
	inodes  = regexp.MustCompile(`:\[[0-9]+\]`)
)

// fresh are variables whose value is another one at each start.
var fresh = []string{"INVOCATION_ID", "JOURNAL_STREAM", "XDG_ACTIVATION_TOKEN", "DESKTOP_STARTUP_ID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE",
	"MANAGERPID", "MANAGERPIDFDID", "_", "SYSTEMD_EXEC_PID", "GIO_LAUNCHED_DESKTOP_FILE_PID", "DBUS_STARTER_ADDRESS"}

// facts are the kernel's data of a process. Values with its PID or its name
// are made the same for both subjects.
func facts(t *testing.T, pid int, s subject) map[string]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	read := func(name string) string {
		b, err := os.ReadFile(dir + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	own := func(text string) string {
		return strings.NewReplacer(s.entries+"/", "", s.command, "COMMAND", s.id, "ID").Replace(regexp.MustCompile(`\b`+strconv.Itoa(pid)+`\b`).ReplaceAllString(text, "PID"))
	}
	f := map[string]string{"unit": numbers.ReplaceAllString(hexes.ReplaceAllString(own(unit(pid)), "HEX"), "N"), "limits": read("limits"), "oom_score_adj": read("oom_score_adj")}
	for line := range strings.Lines(read("status")) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "Umask", "Uid", "Gid", "Groups", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Cpus_allowed":
			f[name] = strings.TrimSpace(value)
		}
	}
	f["blocked signals"] = blocked(t, pid)
	stat := read("stat")
	field := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // from the third of proc_pid_stat(5) on
	parent, err := os.ReadFile("/proc/" + field[1] + "/comm")
	if err != nil {
		t.Fatal(err)
	}
	f["parent"], f["leads its group"], f["leads its session"] = strings.TrimSpace(string(parent)), own(field[2]), strconv.FormatBool(field[3] == strconv.Itoa(pid))
	if f["leads its group"] != "PID" {
		f["leads its group"] = "no"
	}
	cwd, err := os.Readlink(dir + "cwd")
	if err != nil {
		t.Fatal(err)
	}
	f["directory"] = cwd
	_, args, _ := strings.Cut(read("cmdline"), "\x00")
	f["arguments"] = own(args)
	for _, v := range strings.Split(strings.TrimRight(read("environ"), "\x00"), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "LULL_") {
			continue
		}
		if value == strconv.Itoa(pid) {
			value = "PID"
		} else if slices.Contains(fresh, name) {
			value = "set"
		}
		f["$"+name] = own(value)
	}
	fds, err := os.ReadDir(dir + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(dir + "fd/" + fd.Name())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if strings.HasPrefix(target, "/run/lull/runctl/") {
			continue // the tether
		}
		f["descriptor "+fd.Name()] = inodes.ReplaceAllString(target, "")
	}
	return f
}

// blocked returns the signals that all threads block: a Go program blocks some in one
// thread while it makes another.
func blocked(t *testing.T, pid int) string {
	t.Helper()
	all := ^uint64(0)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("process %d has no threads: %v", pid, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		_, rest, _ := strings.Cut(string(b), "\nSigBlk:\t")
		mask, err2 := strconv.ParseUint(rest[:strings.IndexByte(rest, '\n')], 16, 64)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		all &= mask
	}
	return strconv.FormatUint(all, 16)
}

// end asks the application to end and waits for its last mark.
func (m *marks) end(at mark) {
	m.t.Helper()
	if err := syscall.Kill(at.pid, syscall.SIGTERM); err != nil {
		m.t.Fatalf("%v: %v", at, err)
	}
	if end := m.next("the end"); end.what != "end" || end.pid != at.pid {
		m.t.Fatalf("%v after %v; want what %q and pid %v", end, at, "end", at.pid)
	}
	gone(m.t, at.pid)
}

// gone waits until a process is no more, which takes a moment after its last mark.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}

// inShell: at a terminal, the shell sees the PID of the application itself, its exit
// status and the signal that ends it, stops and continues it, and has it in front.
func inShell(t *testing.T, m *marks, term *terminal) {
	t.Helper()
	for _, s := range []subject{twin, ours} {
		func() {
			start := func(line string) mark {
				t.Helper()
				term.send(line + "\n")
				at := m.next(line)
				if at.what != "start" {
					t.Fatalf("got %v, want what %q", at, "start")
				}
				return at
			}
			state := func(pid int, want string) {
				t.Helper()
				for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
					b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
					if err != nil {
						t.Fatal(err)
					}
					_, rest, _ := strings.Cut(string(b), ") ")
					if strings.HasPrefix(rest, want) {
						return
					}
					if time.Now().After(end) {
						t.Fatalf("its state is %.1s, want %s", rest, want)
					}
				}
			}
			kill := func(pid int, sig syscall.Signal) {
				t.Helper()
				if err := syscall.Kill(pid, sig); err != nil {
					t.Fatal(err)
				}
			}
			status := func(want int) {
				t.Helper()
				if got := term.status(); got != want {
					t.Errorf("%s: the shell sees status %d, want %d", s.id, got, want)
				}
			}

			at := start(s.command)
			term.send("\x1a") // Ctrl-Z
			state(at.pid, "T")
			status(128 + int(syscall.SIGTSTP))
			term.send("echo job=$(jobs -p)\n")
			var job int
			if term.find("job=%d\r\n", &job); job != at.pid {
				t.Errorf("the shell's job is %d, the application %d; want job %v", job, at.pid, at.pid)
			}
			term.send("fg\n")
			state(at.pid, "S")
			term.send("\x03") // Ctrl-C
			if end := m.next("the end after Ctrl-C"); end.what != "end" || end.pid != at.pid {
				t.Fatalf("got %v, want what %q and pid %v", end, "end", at.pid)
			}
			status(0)

			at = start(s.command)
			kill(at.pid, syscall.SIGUSR1)
			m.next("the end after SIGUSR1")
			status(7)

			at = start(s.command)
			kill(at.pid, syscall.SIGKILL)
			gone(t, at.pid)
			status(128 + int(syscall.SIGKILL))

			at = start(s.command + " & echo child=$!")
			var child int
			if term.find("child=%d\r\n", &child); child != at.pid {
				t.Errorf("the shell has started %d, the application is %d; want child %v", child, at.pid, at.pid)
			}
			m.end(at)
		}()
	}
}
