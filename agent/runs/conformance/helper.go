package conformance

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/agent/lib/scopes"
)

// helperEnv makes the test binary one of the processes below instead of
// running tests.
const helperEnv = "LULL_CONFORMANCE"

// helper returns a command that behaves as named. Being a test binary, this
// program is where the tests are, in a container too.
func helper(t *testing.T, name string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"env", helperEnv + "=" + name, self}
}

func init() {
	switch os.Getenv(helperEnv) {
	case "leaderless":
		leaderless()
	case "forks":
		forks()
	case "scoped":
		scoped()
	}
}

// leaderless ends its first thread; another waits for the end of its input.
func leaderless() {
	runtime.LockOSThread() // init runs on the first thread
	go func() {
		fmt.Println("leaderless")
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	// Not RawSyscall: the runtime must learn that this thread does not come back.
	syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0)
}

// scopeEnv names the scope that a process of ScopedByUser makes for itself.
const scopeEnv = "LULL_CONFORMANCE_SCOPE"

// scoped asks the user's systemd for a scope, as the launcher does, reports
// it, and becomes the command of its arguments.
func scoped() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m, err := scopes.User(ctx)
	if err == nil {
		err = m.Start(ctx, scopes.Scope{
			Name: os.Getenv(scopeEnv), Description: "a test of lull", Slice: "app.slice", PIDs: []uint32{uint32(os.Getpid())},
		})
	}
	var path string
	if err == nil {
		path, err = exec.LookPath(os.Args[1])
	}
	if err == nil {
		os.Unsetenv(helperEnv)
		os.Unsetenv(scopeEnv)
		fmt.Println("scoped")
		err = syscall.Exec(path, os.Args[1:], os.Environ())
	}
	fmt.Println(err)
	os.Exit(1)
}

// forks has children that no polite signal ends, on request.
func forks() {
	b := make([]byte, 3)
	if _, err := io.ReadFull(os.Stdin, b); err != nil {
		os.Exit(1)
	}
	for range 3 {
		cmd := exec.Command("sh", "-c", "trap '' TERM INT HUP; read end")
		cmd.Stdin = os.Stdin // if they are not killed, they end with the test
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("forks")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// stateOf returns the letter of the State line of /proc/PID/status.
func stateOf(status string) []string {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "State:\t"); ok {
			return strings.Fields(rest)
		}
	}
	return nil
}

// waitFor waits for a change that makes no event.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true that %s", what)
		}
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}
