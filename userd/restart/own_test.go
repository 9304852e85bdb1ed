package restart

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/userd/notify"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// untilPID reads a number that a program writes.
func untilPID(t *testing.T, path string) int {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if b, err := os.ReadFile(path); err == nil && strings.HasSuffix(string(b), "\n") {
			n, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s is never written", path)
	return 0
}

// A run holds what the application has started, such as a browser, which is not asked
// and is named. Of the package, the program gets the signal, and neither the script
// that waits for it nor what it has started.
func TestOnlyTheMainProcessIsSignalled(t *testing.T) {
	dir := t.TempDir()
	p := startProgram(t, "lulltest-main", `while [ ! -e `+dir+`/go ]; do echo ready; exec 1>&2; sleep 0.02; done
setsid sleep 1000 & echo $! > `+dir+`/browser
"${0%/*}/tool" -c 'trap "exit 3" TERM; "$0" -c "echo \$\$ > `+dir+`/child; trap : TERM; while :; do read -t 1 x < /dev/zero || :; done" & echo $$ > `+dir+`/tool; wait' "${0%/*}/tool"
echo $? > `+dir+`/status
while [ ! -e `+dir+`/end ]; do sleep 0.02; done`)
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.tree, "bin/tool"), read(t, bash), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	browser, tool, child := untilPID(t, dir+"/browser"), untilPID(t, dir+"/tool"), untilPID(t, dir+"/child")
	t.Cleanup(func() {
		syscall.Kill(browser, syscall.SIGKILL)
		syscall.Kill(child, syscall.SIGKILL)
	})
	for pid, want := range map[int]bool{p.cmd.Process.Pid: false, browser: true, tool: false, child: false} {
		if there, other := Look("lulltest-main", uint32(pid)); !there || other != want {
			t.Errorf("%s is there: %v, another program: %v, want %v", read(t, "/proc/"+strconv.Itoa(pid)+"/comm"), there, other, want)
		}
	}
	a := newAgain(t)
	a.Quit(t.Context(), connect(t), pending("lulltest-main", browser, child, tool, p.cmd.Process.Pid))
	if status := untilPID(t, dir+"/status"); status != 3 {
		t.Errorf("the program has ended with %d, want 3", status)
	}
	for _, pid := range []int{browser, child, p.cmd.Process.Pid} {
		if there, _ := Look("lulltest-main", uint32(pid)); !there {
			t.Errorf("process %d has ended by a signal, want it to be left alone", pid)
		}
	}
	if there, _ := Look("lulltest-main", uint32(tool)); there {
		t.Error("what has ended is still there")
	}
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	<-p.done
}

// What the application has left running, or has started by another program, is no main
// process, and gets no signal: it may have unsaved work, and it ends with the application or
// is named as still open.
func TestHelpersAreNotSignalled(t *testing.T) {
	dir := t.TempDir()
	// The orphans are adopted by PID 1, or by a user's systemd.
	p := startProgram(t, "lulltest-helpers", `while [ ! -e `+dir+`/go ]; do echo ready; exec 1>&2; sleep 0.02; done
"${0%/*}/tool" -c 'trap "exit 3" TERM
(setsid "$0" -c "echo \$\$ > `+dir+`/orphan; trap : TERM; while :; do read -t 1 x < /dev/zero || :; done" &)
sh -c "\"\$0\" -c \"echo \\\$\\\$ > `+dir+`/through; trap : TERM; while :; do read -t 1 x < /dev/zero || :; done\"; :" "$0" &
echo $$ > `+dir+`/tool; wait' "${0%/*}/tool"
echo $? > `+dir+`/status`)
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.tree, "bin/tool"), read(t, bash), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tool, orphan, through := untilPID(t, dir+"/tool"), untilPID(t, dir+"/orphan"), untilPID(t, dir+"/through")
	t.Cleanup(func() {
		syscall.Kill(orphan, syscall.SIGKILL)
		syscall.Kill(through, syscall.SIGKILL)
	})
	var own []process
	for _, pid := range []int{through, orphan, tool, p.cmd.Process.Pid} {
		o, fd, err := hold(pid, "lulltest-helpers")
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		own = append(own, o)
	}
	if !own[1].orphan {
		t.Fatalf("process %d has lost its parent, and is %+v, want an orphan", orphan, own[1])
	}
	if got := pids(mains(own)); !slices.Equal(got, []int{tool}) {
		t.Errorf("signalled are %v, want %d; not %d, which is an orphan, nor %d, which a shell has started", got, tool, orphan, through)
	}
	a := newAgain(t)
	a.Quit(t.Context(), connect(t), pending("lulltest-helpers", through, orphan, tool, p.cmd.Process.Pid))
	if status := untilPID(t, dir+"/status"); status != 3 {
		t.Errorf("the program has ended with %d, want 3", status)
	}
	// Without its first process, an orphan is the application: it has gone to the background.
	if o, fd, err := hold(orphan, "lulltest-helpers"); err != nil {
		t.Error(err)
	} else {
		unix.Close(fd)
		if got := pids(mains([]process{o})); !slices.Equal(got, []int{orphan}) {
			t.Errorf("of an orphan alone, signalled are %v, want %d", got, orphan)
		}
	}
	<-p.done
}

// tethered starts a program of a package that is known by its tether only, as where a
// desktop has moved it into a scope of its own.
func tethered(t *testing.T, instance, file string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "lull."+instance+"."+packageHash[:16]+".open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(file, args...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func TestTether(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	_, file := newTree(t, "sleep", read(t, sleep))
	own, other := tethered(t, "lulltest", file, nil, "1000"), tethered(t, "lulltest", sleep, nil, "1000")
	for cmd, want := range map[*exec.Cmd]bool{own: false, other: true} {
		// Between fork and exec it is still this program.
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			there, isOther := Look("lulltest", uint32(cmd.Process.Pid))
			if there && isOther == want {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("Look at %s: got there %v, another program %v, want true and %v", cmd.Path, there, isOther, want)
			}
		}
	}
	if _, _, err := hold(own.Process.Pid, "another"); err == nil {
		t.Error("it is no process of another instance")
	}
	a := newAgain(t)
	a.Quit(t.Context(), connect(t), pending("lulltest", own.Process.Pid, other.Process.Pid))
	if err := own.Wait(); err == nil || own.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("the program has ended with %v, want %v", err, syscall.SIGTERM)
	}
	if there, _ := Look("lulltest", uint32(other.Process.Pid)); !there {
		t.Error("the other program was hit")
	}
}

// slow is an application that answers when its user has.
type slow struct {
	app
	answer chan struct{}
}

func (s slow) ActivateAction(name string, _ []dbus.Variant, _ map[string]dbus.Variant) *dbus.Error {
	s.called <- name
	<-s.answer
	return nil
}

func (s slow) List() ([]string, *dbus.Error) {
	if len(s.actions) == 0 {
		<-s.answer
	}
	return s.actions, nil
}

// An application that does not answer in time was asked, and is not asked in another way.
func TestNoAnswerIsAsked(t *testing.T) {
	for _, c := range []struct {
		name    string
		actions []string
		asked   int
	}{{"the action", []string{"quit"}, 1}, {"the list of actions", nil, 0}} {
		t.Run(c.name, func(t *testing.T) {
			conn := connect(t)
			s := slow{app{c.actions, make(chan string, 8)}, make(chan struct{})}
			defer close(s.answer)
			conn.Export(s, "/org/lull/Test", "org.freedesktop.Application")
			conn.Export(s, "/org/lull/Test", "org.gtk.Actions")
			if _, err := conn.RequestName("org.lull.Test", dbus.NameFlagDoNotQueue); err != nil {
				t.Fatal(err)
			}
			victim := exec.Command("sleep", "1000")
			victim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := victim.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				victim.Process.Kill()
				victim.Wait()
			})
			fd, err := unix.PidfdOpen(victim.Process.Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			a := newAgain(t)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			r := &run{pidfds: []int{fd}}
			p := notify.Pending{Instance: "lulltest", DesktopEntry: "org.lull.Test"}
			a.ask(ctx, conn, r, nil, p, []process{{pid: os.Getpid(), pidfd: fd}})
			if len(s.called) != c.asked || r.how != byBus || !alive(fd) {
				t.Errorf("asked %d times, by %q, alive: %v; want %d, %q and true", len(s.called), r.how, alive(fd), c.asked, byBus)
			}
			// Retried when the name is gone: it is not signalled after that.
			if _, err := conn.ReleaseName("org.lull.Test"); err != nil {
				t.Fatal(err)
			}
			again := &run{pidfds: []int{fd}}
			a.ask(t.Context(), conn, again, r, p, []process{{pid: os.Getpid(), pidfd: fd}})
			time.Sleep(50 * time.Millisecond) // a signal would have come
			if again.how != byBus || !alive(fd) {
				t.Errorf("the retry: asked by %q, alive: %v; want %q and true", again.how, alive(fd), byBus)
			}
			r.release()
		})
	}
}
