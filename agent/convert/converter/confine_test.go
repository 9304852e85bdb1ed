package converter

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/lull/lull/e2e/require"
)

// confinedIn names the directory in which a child of the test tries forbidden operations.
const confinedIn = "LULL_CONFINED_IN"

// TestMain runs the child.
func TestMain(m *testing.M) {
	dir := os.Getenv(confinedIn)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := confine(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	try := func(what string, err error, want ...error) {
		for _, w := range want {
			if errors.Is(err, w) {
				return
			}
		}
		fmt.Printf("%s: %v\n", what, err)
	}
	_, err := os.ReadFile(filepath.Join(dir, "secret"))
	try("read a file", err, unix.EACCES)
	_, err = os.ReadDir("/")
	try("list a directory", err, unix.EACCES)
	try("write a file", os.WriteFile(filepath.Join(dir, "new"), []byte("x"), 0o600), unix.EACCES)
	try("make a directory", os.Mkdir(filepath.Join(dir, "made"), 0o700), unix.EACCES)
	try("run a program", exec.Command("/bin/true").Run(), unix.EACCES)
	_, err = net.Dial("tcp", os.Getenv("LULL_LISTENER"))
	try("connect", err, unix.EACCES)
	fmt.Println("tried")
}

// TestConfine: the converter opens no path, runs no program and connects to nothing.
func TestConfine(t *testing.T) {
	version, err := syscall.LandlockGetABIVersion()
	if err != nil || version < 4 { // 4: connections (landlock(7))
		require.Missing(t, "needs Landlock of version 4: %d, %v", version, err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), confinedIn+"="+dir, "LULL_LISTENER="+l.Addr().String())
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "tried" {
		t.Errorf("got %q (%v), want \"tried\" and no error", out, err)
	}
}
