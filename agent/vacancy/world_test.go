package vacancy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// TestMain makes the test binary a holder of a file on request: it prints R
// when it has it, and ends with its standard input.
func TestMain(m *testing.M) {
	if how := os.Getenv("LULL_TEST_HOLD"); how != "" {
		if err := hold(how, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func hold(how, path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	switch how {
	case "map": // and nothing else
		if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
			return err
		}
		unix.Close(fd)
	case "tether":
		if err := unix.Dup3(fd, 900, 0); err != nil {
			return err
		}
		unix.Close(fd)
	case "path":
		unix.Close(fd)
		if _, err := unix.Open(path, unix.O_PATH, 0); err != nil {
			return err
		}
	}
	fmt.Println("R")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mounted returns the top of a new file system.
func mounted(t *testing.T, args ...string) string {
	t.Helper()
	require.Root(t)
	require.Program(t, "mount")
	at := t.TempDir()
	if out, err := exec.Command("mount", append(args, at)...).CombinedOutput(); err != nil {
		require.Missing(t, "needs to mount %q: %s", args, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, unix.MNT_DETACH)) })
	return at
}

func loop(t *testing.T, mkfs ...string) string {
	t.Helper()
	require.Root(t)
	path := require.Program(t, mkfs[0])
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	if out, err := exec.Command(path, append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %s", mkfs, out)
	}
	return mounted(t, "-o", "loop", image)
}

func overlay(t *testing.T, lower string) string {
	t.Helper()
	dir := mounted(t, "-t", "tmpfs", "tmpfs")
	for _, name := range []string{"upper", "work"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	return mounted(t, "-t", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir), "overlay")
}

var fileSystems = []struct {
	name  string
	mount func(*testing.T) string
}{
	{"here", func(t *testing.T) string { return t.TempDir() }},
	{"ext4", func(t *testing.T) string { return loop(t, "mkfs.ext4", "-q") }},
	{"xfs", func(t *testing.T) string { return loop(t, "mkfs.xfs", "-q") }},
	{"btrfs", func(t *testing.T) string { return loop(t, "mkfs.btrfs", "-q") }},
	{"tmpfs", func(t *testing.T) string { return mounted(t, "-t", "tmpfs", "-o", "size=64m", "tmpfs") }},
	{"overlay", func(t *testing.T) string { return overlay(t, t.TempDir()) }},
}

// program puts a program at a path: sleep(1).
func program(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(require.Program(t, "sleep"))
	must(t, err)
	must(t, os.WriteFile(path, b, 0o755))
	return path
}

// holder is a process that uses a file.
type holder struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
}

// start runs a command that prints R when it has its file.
func start(t *testing.T, cmd *exec.Cmd) *holder {
	t.Helper()
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = t.Output()
	must(t, cmd.Start())
	h := &holder{t, cmd, in}
	t.Cleanup(h.end)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "R\n" {
		t.Fatalf("%v: %q, want %q, %v", cmd.Args, line, "R\n", err)
	}
	return h
}

func holds(t *testing.T, how, path string, wrapper ...string) *holder {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	argv := append(wrapper, self, path)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LULL_TEST_HOLD="+how)
	return start(t, cmd)
}

// executes runs a program until it is ended.
func executes(t *testing.T, path string, wrapper ...string) *holder {
	t.Helper()
	argv := append(wrapper, path, "1000")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	h := &holder{t, cmd, nil}
	t.Cleanup(h.end)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		in, err := inodeOf(path)
		must(t, err)
		o, err := Scan(t.Context(), 0, Query{Files: map[Inode]bool{in: true}})
		must(t, err)
		if len(o.Holders) > 0 {
			return h
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q has not executed %s within two minutes", argv, path)
		}
	}
}

func children(pid int) []byte {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	return b
}

func inodeOf(path string) (Inode, error) { return statInode(path) }

func (h *holder) end() {
	if h.cmd.ProcessState != nil {
		return
	}
	if h.in != nil {
		h.in.Close()
	} else {
		for _, pid := range fields(children(h.cmd.Process.Pid)) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		h.cmd.Process.Kill()
	}
	err := h.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Error(err)
	}
}

func fields(b []byte) (pids []int) {
	var pid int
	if n, err := fmt.Sscan(string(b), &pid); n != 1 || err != nil {
		return nil
	}
	return []int{pid}
}
