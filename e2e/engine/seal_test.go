package engine_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// withTool publishes a package with a program of its own, which is the same in every
// package and version with the same salt, a script that executes it repeatedly, and
// one that has a library of the package mapped.
func (s *scene) withTool(name, version, salt, more string) {
	s.Helper()
	dir, err := os.MkdirTemp(s.Path(), "package-")
	if err != nil {
		s.Fatalf("%v", err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		s.Fatalf("%v", err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		s.Fatalf("%v", err)
	}
	libraries, err := filepath.Glob("/lib/*/libdl.so.2")
	if err != nil || len(libraries) == 0 {
		s.Fatalf("no library is found: %v", err)
	}
	library, err := os.ReadFile(libraries[0])
	if err != nil {
		s.Fatalf("%v", err)
	}
	err = errors.Join(os.WriteFile(dir+"/lull.yaml", []byte(app(name, version, more)), 0o644),
		os.WriteFile(dir+"/app", []byte("#!/bin/sh\nexec \"$LULL_PACKAGE_DIR/tool\" infinity\n"), 0o755),
		os.WriteFile(dir+"/loop", []byte("#!/bin/sh\nwhile sleep 0.2; do \"$LULL_PACKAGE_DIR/tool\" 0 && echo >>\"$LULL_COMMON/turns\"; done\n"), 0o755),
		os.WriteFile(dir+"/lib.so", append(library, salt...), 0o644),
		os.WriteFile(dir+"/mapping", []byte("#!/bin/sh\nLD_PRELOAD=\"$LULL_PACKAGE_DIR/lib.so\" exec sleep infinity\n"), 0o755),
		os.WriteFile(dir+"/tool", append(program, salt...), 0o755))
	if err != nil {
		s.Fatalf("%v", err)
	}
	s.MustLull("publish", "--repo", s.Repo, dir)
}

// tool is the path of the program in the package that is current.
func (s *scene) tool(name string) string {
	s.Helper()
	pkg, err := filepath.EvalSymlinks(filepath.Join(s.Store, "current", name))
	if err != nil {
		s.Fatalf("%v", err)
	}
	return filepath.Join(pkg, "tool")
}

// stranger starts a program outside of lull, which ends with the test.
func (s *scene) stranger(argv ...string) *exec.Cmd {
	s.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		s.Fatalf("%v", err)
	}
	s.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func kill(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// waitsFor waits until a refresh waits for just one process.
func (s *scene) waitsFor(name, version string, pid int) {
	s.Helper()
	s.Until(fmt.Sprintf("the refresh of %s waits for %d", name, pid), limit, func() (bool, string) {
		o, _ := s.API.Refresh(name, version)
		var pids []int
		for _, p := range rig.Processes(o.Props["Waiting"]) {
			pids = append(pids, int(p.PID))
		}
		return o.Str("State") == "waiting" && slices.Equal(pids, []int{pid}), fmt.Sprint(o.Str("State"), " for ", pids, " ", o.Str("ErrorText"))
	})
	if p, _ := s.API.Package(name); p.Str("Version") == version {
		s.Errorf("%s was refreshed beneath process %d: got version %s, want the one before", name, pid, version)
	}
}

// TestCrashWithSeal: a program that is opened by its path while the agent has the lease
// waits in the kernel, and goes on when the agent dies. It runs the old revision then,
// which stays current until it has ended.
func TestCrashWithSeal(t *testing.T) {
	const name = "org.lull.sealed"
	s := set(t, "")
	s.withTool(name, "1", "one", "")
	env, reached, _ := s.gate()
	s.Begin(env, "LULL_FAULT=refresh.copy.before#2:gate")
	s.MustLull("install", name)
	s.withTool(name, "2", "two", "")
	s.Admin.StartLull(nil, "refresh", name)
	reached()
	tool := s.tool(name)
	var st syscall.Stat_t
	if err := syscall.Stat(tool, &st); err != nil {
		t.Fatal(err)
	}
	// A shell executes it: the child of this process itself would keep the thread that has
	// made it waiting, and with that the garbage collector, until the lease ends.
	cmd := exec.Command("sh", "-c", `exec "$0" infinity`, tool)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer kill(cmd)
	exe := func() string {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	s.Until("the kernel has the program wait", limit, func() (bool, string) {
		b, err := os.ReadFile("/proc/locks")
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, "LEASE") && strings.Contains(line, "BREAKING") && strings.Contains(line, fmt.Sprintf(":%d ", st.Ino)) {
				return true, ""
			}
		}
		return false, fmt.Sprint(string(b), err)
	})
	if exe() == tool {
		t.Fatal("it has started while the package was sealed")
	}
	s.Agent().Crash()
	s.Until("the program starts", limit, func() (bool, string) { return exe() == tool, exe() })
	s.StartAgent()
	s.waitsFor(name, "2", cmd.Process.Pid)
	kill(cmd)
	s.UntilState(name, "2", "done")
}

// TestSharedFiles: a program that two packages have runs in one of them, which holds up
// that one alone.
func TestSharedFiles(t *testing.T) {
	const name, other = "org.lull.shares", "org.lull.shares.too"
	s := set(t, "")
	s.withTool(name, "1", "same", "")
	s.withTool(other, "1", "same", "")
	s.Begin()
	s.MustLull("install", name, other)
	run, _ := s.waiting(other, "2", func() { s.withTool(other, "2", "same", "") })
	s.withTool(name, "2", "new", "")
	s.MustLull("refresh", name)
	s.UntilState(other, "2", "waiting")
	run.Stop()
	s.UntilState(other, "2", "done")
}

// TestTogetherWithSeal: of two instances that are refreshed together one is used by a
// program outside of lull. Neither is refreshed before that has ended, and then both.
func TestTogetherWithSeal(t *testing.T) {
	const name, other = "org.lull.first", "org.lull.second"
	s := set(t, "")
	for _, n := range []string{name, other} {
		s.withTool(n, "1", n+"1", "")
	}
	s.Begin()
	s.MustLull("install", name, other)
	for _, n := range []string{name, other} {
		s.withTool(n, "2", n+"2", "")
	}
	user := s.stranger(s.tool(other), "infinity")
	s.MustLull("refresh", "--no-wait", "--atomic", name, other)
	s.waitsFor(other, "2", user.Process.Pid)
	if p, _ := s.API.Package(name); p.Str("Version") != "1" {
		t.Error("one of them was refreshed without the other")
	}
	// The one that waits keeps no launch of the other out.
	if r := s.User.RunWithin(limit, "timeout", "1", "lull", "run", name); r.Code != 124 {
		t.Errorf("got %v, want exit status 124", r)
	}
	kill(user)
	s.UntilState(name, "2", "done")
	s.UntilState(other, "2", "done")
}

// TestOpenForTheWindow: what has a file of the package open, and no more, puts a refresh
// off for the length of the window, and is named. Afterwards it keeps the old package,
// which the doctor and `lull du` put down to it.
func TestOpenForTheWindow(t *testing.T) {
	const name = "org.lull.read"
	s := set(t, "")
	s.Configure("policy.d/20-window.yaml", "defaults: {max-postponement: 5s, keep-revisions: 1}\n")
	s.withTool(name, "1", "one", "")
	s.Begin()
	s.MustLull("install", name)
	pkg := filepath.Base(filepath.Dir(s.tool(name)))
	s.withTool(name, "2", "two", "")
	opened := s.Path("opened")
	if err := syscall.Mkfifo(opened, 0o600); err != nil {
		t.Fatal(err)
	}
	reader := s.stranger("sh", "-c", `exec <"$0"; : >"$1"; exec sleep infinity`, s.tool(name), opened)
	if _, err := os.ReadFile(opened); err != nil { // ends when the reader has the program open
		t.Fatal(err)
	}
	s.MustLull("refresh", "--no-wait", name)
	s.waitsFor(name, "2", reader.Process.Pid)
	s.UntilState(name, "2", "done")
	if err := reader.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the reader has ended: %v", err)
	}
	holder := regexp.MustCompile(fmt.Sprintf(`by the process sleep of user root, outside of any run, executing /\S+ \(PID %d\)`, reader.Process.Pid))
	for _, args := range [][]string{{"gc"}, {"gc", "--dry-run"}, {"du"}, {"why", pkg}} {
		if r := s.MustLull(args...); len(holder.FindAllString(r.Stdout, -1)) != 1 {
			t.Errorf("%q is not once in %v", holder, r)
		}
	}
	keeps := fmt.Sprintf("(pid %d, uid 0) keeps what nothing else needs: %s 1", reader.Process.Pid, name)
	if r := s.Lull("doctor"); !strings.Contains(r.Stdout, "warn  space") || !strings.Contains(joined(r.Stdout), keeps) {
		t.Errorf("want %q, got %v", keeps, r)
	}
	kill(reader)
	s.MustLull("gc")
	if r := s.Lull("doctor"); strings.Contains(joined(r.Stdout), "keeps what nothing else needs") {
		t.Errorf("after the reader has ended: got %v; want nothing that keeps what nothing else needs", r)
	}
	if r := s.Lull("du"); strings.Contains(r.Stdout, "stray process") || strings.Count(r.Stdout, name) != 1 {
		t.Errorf("after the reader has ended: got %v; want no stray process, and %s once", r, name)
	}
}

// joined puts the lines of a text that was wrapped together.
func joined(text string) string { return strings.Join(strings.Fields(text), " ") }

// TestWithoutProof: on an overlay a lease does not see every use, so that /proc is read
// as well: what runs is waited for, and named.
func TestWithoutProof(t *testing.T) {
	const name = "org.lull.overlaid"
	s := set(t, "")
	over := s.Path("over")
	if err := os.Mkdir(over, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("lull-test-tmpfs", over, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(over, syscall.MNT_DETACH) })
	for _, d := range []string{"lower", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(over, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := syscall.Mount("lull-test-overlay", s.Store, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", over))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(s.Store, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	const daemon = "services: [{name: daemon, command: mapping}]\n" // which uses the package as well, and does not count
	s.withTool(name, "1", "one", daemon)
	s.Begin()
	s.MustLull("install", name)
	s.withTool(name, "2", "two", daemon)
	user := s.stranger(s.tool(name), "infinity")
	s.MustLull("refresh", "--no-wait", name)
	s.waitsFor(name, "2", user.Process.Pid)
	kill(user)
	s.UntilState(name, "2", "done")
	s.MustLull("remove", name)
	if r := s.Lull("doctor"); !strings.Contains(r.Stdout, "warn  vacancy") || !strings.Contains(r.Stdout, "is on an overlay") {
		t.Errorf("got %v, want %q in the output and %q in the output", r, "warn  vacancy", "is on an overlay")
	}
}

// TestEndures: a service that endures executes a program of its package
// repeatedly, before, in and after the critical section, which does not make
// it wait, and the refresh does not wait for it. It waits for other processes
// that execute the program.
func TestEndures(t *testing.T) {
	const name = "org.lull.lasting"
	const lasting = "services: [{name: lasting, command: loop, refresh-mode: endure}]\n"
	s := set(t, "")
	s.withTool(name, "1", "one", lasting)
	env, reached, open := s.gate()
	s.Begin(env, "LULL_FAULT=refresh.copy.before#2:gate")
	s.MustLull("install", name)
	s.withTool(name, "2", "two", lasting)
	user := s.stranger(s.tool(name), "infinity")
	s.MustLull("refresh", "--no-wait", name)
	s.waitsFor(name, "2", user.Process.Pid)
	kill(user)
	reached()
	turns := filepath.Join(s.Store, "data", name, "common/turns")
	begin := -1
	more := func(when string) {
		t.Helper()
		begin = -1
		s.UntilFile("the service goes on "+when, limit, turns, func(text string) (bool, string) {
			if begin < 0 {
				begin = len(text)
			}
			return len(text) > begin+10, fmt.Sprint(begin, " turns and no more than ", len(text))
		})
	}
	more("in the section")
	open()
	s.UntilState(name, "2", "done")
	more("after it")
	if log := s.Agent().Log(); strings.Contains(log, "did not stay vacant") {
		t.Errorf("the section was undone: got %q in the log, want it vacant: %s", "did not stay vacant", log)
	}
	s.MustLull("remove", name)
}

// TestBackup: a real backup reads the package when a refresh is ready. It is named, no
// run, and the refresh goes on when the backup has closed the file, which it may do long
// before its own end.
func TestBackup(t *testing.T) {
	const name = "org.lull.saved"
	s := set(t, "")
	s.withTool(name, "1", strings.Repeat("large", 100_000), "")
	s.Begin()
	s.MustLull("install", name)
	s.withTool(name, "2", "two", "")
	pipe := s.Path("archive")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	tool := s.tool(name)
	backup := s.stranger("tar", "--create", "--file="+pipe, "--directory="+filepath.Dir(tool), "tool", "app")
	archive, err := os.Open(pipe) // tar stops in the middle of the program when the pipe is full
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	if _, err := io.ReadFull(archive, make([]byte, 512)); err != nil { // it writes when it has opened the program
		t.Fatal(err)
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", backup.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(links, func(l string) bool { link, _ := os.Readlink(l); return strings.HasSuffix(link, "/tool") }) {
		t.Fatal("the backup does not have the program open")
	}
	s.MustLull("refresh", "--no-wait", name)
	s.waitsFor(name, "2", backup.Process.Pid)
	p, _ := s.API.Package(name)
	if running, _ := p.Props["Running"].Value().(bool); running {
		t.Error("the backup counts as running")
	}
	reads := fmt.Sprintf("the refresh of %s to 2 waits for tar (pid %d, uid 0), which has files of its package open and does not run it", name, backup.Process.Pid)
	if r := s.Lull("doctor"); !strings.Contains(r.Stdout, "warn  refreshes") || !strings.Contains(joined(r.Stdout), reads) {
		t.Errorf("want %q, got %v", reads, r)
	}
	if _, err := io.Copy(io.Discard, archive); err != nil {
		t.Fatal(err)
	}
	s.UntilState(name, "2", "done")
	if r := s.Lull("doctor"); strings.Contains(r.Stdout, "does not run it") {
		t.Errorf("the backup has closed the file: got %v; want it not named", r)
	}
}
