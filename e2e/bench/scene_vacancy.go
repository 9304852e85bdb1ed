package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/rig"
)

// vacancyApp is the application whose end is waited for.
const vacancyApp = "org.lull.vacancy"

// playVacancy ends a process that is alone in its scope, and takes the time from
// its last instruction until a file has been seen: in turns the marker of the
// critical section of a waiting refresh, and that of a bare watcher.
func playVacancy(tb rig.TB) results {
	dir := programs(tb)
	program := filepath.Join(dir, "closing")
	s := setStage(tb, rig.Options{Rootless: true})
	s.publish(vacancyApp, "1", program, "")
	s.install(vacancyApp)
	s.publish(vacancyApp, "2", program, "")
	s.MustLull("refresh", vacancyApp)
	markers := observe(tb, filepath.Join(s.RunDir, "runctl"), unix.IN_MOVED_TO|unix.IN_DELETE)
	files := tempDir(tb)
	written := observe(tb, files, unix.IN_CLOSE_WRITE)

	turn := 0
	ours := func() float64 {
		turn++
		app := s.open(s.wrapper(vacancyApp))
		s.revert(uint32(2 - turn%2))
		settle()
		forget(markers)
		ended := app.close()
		marker := "lull." + vacancyApp + ".inhibited"
		took := await(tb, markers, marker, unix.IN_MOVED_TO).at - ended
		await(tb, markers, marker, unix.IN_DELETE)
		s.untilEnded()
		return float64(took) / 1e6
	}
	theirs := func() float64 {
		app := s.open("systemd-run", "--user", "--scope", "--quiet", "--collect", program)
		file := filepath.Join(files, fmt.Sprint(turn))
		watcher := s.open(filepath.Join(dir, "watcher"), app.events(), file)
		settle()
		ended := app.close()
		took := await(tb, written, filepath.Base(file), unix.IN_CLOSE_WRITE).at - ended
		watcher.wait()
		return float64(took) / 1e6
	}
	got := inTurns(5, 100, ours, theirs)
	return results{"vacancy": samples{Ours: got[0], Theirs: got[1], Notes: []string{
		fmt.Sprintf("tracker %v, %v", s.api.Property("", "Manager.Tracker"), s.api.Property("", "Manager.TrackerEvents")),
	}}}
}

// settle lets the noise of the preparations end. The kernel reports a group's
// population once in ten milliseconds at most, so that an end right after a
// beginning would be reported late to all watchers.
func settle() { time.Sleep(60 * time.Millisecond) }

// revert asks for the other revision and returns when the refresh waits.
func (s *stage) revert(to uint32) {
	call := s.api.Call("Manager.Revert", vacancyApp, map[string]dbus.Variant{"revision": dbus.MakeVariant(to)})
	if call.Err != nil {
		s.Fatalf("cannot revert: %v", call.Err)
	}
	s.Until("the refresh waits", time.Minute, func() (bool, string) {
		o, err := s.api.TryRefresh(vacancyApp, "")
		waiting, _ := o.Props["Waiting"].Value().([][]any)
		return err == nil && o.Str("State") == "waiting" && len(waiting) > 0, fmt.Sprint(o.Str("State"), err)
	})
}

// untilEnded waits for the end of the newest refresh.
func (s *stage) untilEnded() {
	s.Until("the refresh has ended", time.Minute, func() (bool, string) {
		o, err := s.api.TryRefresh(vacancyApp, "")
		return err == nil && o.Str("State") == "done", fmt.Sprint(o.Str("State"), " ", o.Str("ErrorText"), err)
	})
}

// child is a program that prints R when it runs.
type child struct {
	s   *stage
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (s *stage) open(argv ...string) *child {
	c := &child{s: s, cmd: s.User.Command(argv[0], argv[1:]...)}
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		s.Fatalf("cannot start %s: %v", argv[0], err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		s.Fatalf("cannot start %s: %v", argv[0], err)
	}
	c.in, c.out = in, bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		s.Fatalf("cannot start %s: %v", argv[0], err)
	}
	s.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() }) // of a scene that was interrupted
	if b, err := c.out.ReadByte(); err != nil || b != 'R' {
		s.Fatalf("%s has not started: %q %v", argv[0], b, err)
	}
	return c
}

// close ends the application and returns when it did, by its own clock.
func (c *child) close() int64 {
	c.in.Close()
	var at [16]byte
	if _, err := io.ReadFull(c.out, at[:]); err != nil {
		c.s.Fatalf("%v has not printed when it ended: %v", c.cmd.Args, err)
	}
	c.wait()
	return int64(binary.NativeEndian.Uint64(at[:]))*1e9 + int64(binary.NativeEndian.Uint64(at[8:]))
}

func (c *child) wait() {
	if err := c.cmd.Wait(); err != nil {
		c.s.Fatalf("%v: %v", c.cmd.Args, err)
	}
}

// events names the cgroup.events of the child's group.
func (c *child) events() string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.cmd.Process.Pid))
	_, path, ok := strings.Cut("\n"+strings.TrimSpace(string(b)), "\n0::")
	if err != nil || !ok {
		c.s.Fatalf("cannot find the group of %v: %q %v", c.cmd.Args, b, err)
	}
	return filepath.Join("/sys/fs/cgroup", path, "cgroup.events")
}
