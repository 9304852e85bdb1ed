package desktops_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	app     = "org.lull.marks"
	desktop = app + ".desktop"

	// patience is how long anything may take on a busy machine.
	patience = time.Minute
)

// programDir is where a container has the application's program, and repo its
// repository.
const programDir, repo = "/opt/marks", "/srv/repo"

// publish publishes version n of the application, n being 1, 2, ….
func publish(t *testing.T, n int, flags ...string) {
	t.Helper()
	// Not one of t's, of which 700 fill /tmp.
	dir, err := os.MkdirTemp("", "marks-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program, err := os.ReadFile(programDir + "/marks")
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: \"%d\"\ntitle: Marks\nsummary: Tells when it starts and when it ends\n", app, n) +
			"apps:\n- {name: marks, command: [bin/marks], desktop: share/applications/" + desktop + ", autostart: etc/xdg/autostart/" + desktop + "}\n" +
			"- {name: bells, command: [bin/marks, --bus, " + ours.bells() + "], desktop: share/applications/" + ours.bells() + ".desktop, dbus-name: " + ours.bells() +
			", dbus-service: share/dbus-1/services/" + ours.bells() + ".service}\ndata: {versioned: true}\n",
		"share/applications/" + desktop:                      entryText("Marks", "marks %F", "MimeType="+ours.mimeType()+";\n"),
		"share/mime/packages/" + app + ".xml":                ours.typeFile(),
		"etc/xdg/autostart/" + desktop:                       entryText("Marks", "marks"),
		"share/applications/" + ours.bells() + ".desktop":    entryText("Bells", "bells", "DBusActivatable=true\n"),
		"share/dbus-1/services/" + ours.bells() + ".service": serviceText(ours.bells(), "bells"),
		"version":   fmt.Sprintln(n),
		"bin/marks": string(program),
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	lull(t, append([]string{"publish", "--deltas-from", "0", "--repo", repo, dir}, flags...)...)
}

// lull runs the command line as root; it must succeed.
func lull(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("lull", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lull %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// refresh forces a refresh of the application, and returns the exit status: 0 when
// it is done or there is none, 75 while it waits for the application.
func refresh(t *testing.T, flags ...string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "lull", append([]string{"refresh", app}, flags...)...).CombinedOutput()
	if ctx.Err() != nil {
		objects, _ := exec.Command("busctl", "--json=short", "call", "org.lull.Agent1", "/org/lull/Agent1", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects").CombinedOutput()
		t.Fatalf("lull refresh does not end:\n%s\n%s\n%s", out, lull(t, "status"), objects)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() == 75:
		return 75
	}
	t.Fatalf("lull refresh: %v\n%s", err, out)
	return -1
}

// rushed opens the application n times by the openers in turn and forces a refresh shortly
// after each click, and another one when it runs. Each click starts it once; while it runs it
// is known to run, the second refresh waits for it, and the package that it
// has come from stays current, so that nothing is refreshed while it runs. The
// last half happens with all processors busy.
func rushed(t *testing.T, m *marks, n int, openers []opener) {
	t.Helper()
	began := time.Now()
	count := newTally(openers)
	defer count.log(t, began)
	for i := range n {
		o := openers[i%len(openers)]
		row := count.row(o.name)
		if i == n/2 {
			defer busy(t)()
		}
		row.launches++
		if i >= n/2 {
			row.busy++
		}
		publish(t, 2*i+2)
		o.open(ours)
		time.Sleep(delays[i/len(openers)%len(delays)]) // what varies is the moment of the refresh
		first := refresh(t)
		at, ok := m.wait()
		if !ok {
			row.refused++
			t.Fatalf("launch %d, %s: got no mark within %v, want a start; lull refresh exits with %d\n%s", i, o.name, patience, first, m.said())
		}
		publish(t, 2*i+3)
		second := refresh(t)
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", at.pid))
		current, err2 := filepath.EvalSymlinks("/var/lib/lull/current/" + app)
		if err := errors.Join(err, err2); err != nil || at.what != "start" {
			t.Fatalf("launch %d, %s: got the mark %v, %v; want a start and no error", i, o.name, at, err)
		}
		pending := lull(t, "pending", "--json")
		if second != 75 || !strings.HasPrefix(exe, current+"/") || !strings.Contains(pending, strconv.Itoa(at.pid)) {
			row.escaped++
			t.Errorf("launch %d, %s: %v in %s has escaped: it runs %s, current is %s, lull refresh exits with %d, then with %d; pending: %s",
				i, o.name, at, unitOf(at.pid), exe, current, first, second, pending)
		}
		if at.version == strconv.Itoa(2*i+1) {
			count.before++
		}
		count.where[unitOf(at.pid)]++
		if err := syscall.Kill(at.pid, syscall.SIGTERM); err != nil {
			t.Fatalf("launch %d, %s: %v: %v", i, o.name, at, err)
		}
		end := m.next(fmt.Sprintf("launch %d, %s, ends", i, o.name))
		if end.what != "end" || end.pid != at.pid {
			row.twice++
			t.Fatalf("launch %d, %s: got the mark %v after %v, want its end", i, o.name, end, at)
		}
		if status := refresh(t, "--wait"); status != 0 {
			t.Fatalf("launch %d, %s: the refresh that waits for the end exits with %d, want 0", i, o.name, status)
		}
		if !m.none(fmt.Sprintf("after launch %d, %s", i, o.name)) {
			row.twice++
		}
		count.keep(t)
		if count.escaped() > 3 {
			break
		}
	}
}

// busy keeps every processor busy until stop is called.
func busy(t *testing.T) (stop func()) {
	t.Helper()
	var all []*exec.Cmd
	for range runtime.NumCPU() {
		cmd := exec.Command("sh", "-c", "while :; do :; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	return func() {
		for _, cmd := range all {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
}

// delays are how long after the click a refresh is forced.
var delays = []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}

// unitOf is the kind of unit that a process is in.
func unitOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err.Error()
	}
	unit := filepath.Base(strings.TrimSpace(string(b)))
	return numbers.ReplaceAllString(hexes.ReplaceAllString(unit, "HEX"), "N")
}

// mark is a line of the application's.
type mark struct {
	what, version string
	pid           int
}

// marks receives the reports of applications.
type marks struct {
	t    *testing.T
	line chan string
	term *terminal // whose output is printed when there is no mark; may be nil
}

// listen makes the FIFO.
func listen(t *testing.T) *marks {
	t.Helper()
	const path = "/run/marks"
	if err := errors.Join(syscall.Mkfifo(path, 0o622), os.Chmod(path, 0o622)); err != nil {
		t.Fatal(err)
	}
	// Open for writing as well, so that it never ends.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &marks{t: t, line: make(chan string, 4096)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(f); s.Scan(); {
			m.line <- s.Text()
		}
	}()
	t.Cleanup(func() {
		f.Close()
		<-done
		os.Remove(path)
	})
	return m
}

// wait waits for the next mark; it reports whether there is one.
func (m *marks) wait() (mark, bool) {
	m.t.Helper()
	select {
	case line := <-m.line:
		f := strings.Fields(line)
		if len(f) != 3 {
			m.t.Fatalf("the mark of the application is %q, want 3 words", line)
		}
		pid, _ := strconv.Atoi(f[2])
		return mark{f[0], f[1], pid}, true
	case <-time.After(patience):
		return mark{}, false
	}
}

// next waits for the next mark, which has to come.
func (m *marks) next(what string) mark {
	m.t.Helper()
	at, ok := m.wait()
	if !ok {
		m.t.Fatalf("waited in vain: %s\n%s", what, m.said())
	}
	return at
}

// said is what the terminal has printed.
func (m *marks) said() string {
	if m.term == nil {
		return ""
	}
	return m.term.rest()
}

// none fails if there is one more mark, and reports whether there is none.
func (m *marks) none(when string) bool {
	m.t.Helper()
	select {
	case line := <-m.line:
		m.t.Errorf("%s: the application says %q", when, line)
		return false
	default:
		return true
	}
}

func (m mark) String() string { return fmt.Sprintf("%s of version %s as %d", m.what, m.version, m.pid) }
