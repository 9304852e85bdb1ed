package bus_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/e2e/require"
)

const (
	callsEnv = "LULL_TEST_CALLS" // the address of a bus: the test binary is a caller there
	callsOf  = 100               // how many calls a caller makes at once
)

// TestNumbersOfOneUser: numbers that no user has, as those in a user's namespaces, have the
// bounds of one user together. dbus-daemon refuses their connections.
func TestNumbersOfOneUser(t *testing.T) {
	if address := os.Getenv(callsEnv); address != "" {
		callMany(t, address)
		return
	}
	if !bustest.Broker() {
		t.Skip("dbus-daemon lets no number connect that has no account")
	}
	require.Root(t)
	w := start(t)
	var running atomic.Int32
	hold := make(chan struct{})
	w.agent.mu.Lock()
	w.agent.doctor = func() {
		running.Add(1)
		<-hold
	}
	w.agent.mu.Unlock()
	defer close(hold)
	program := filepath.Join(publicDir(t), "caller")
	if out, err := exec.Command("install", "-m755", os.Args[0], program).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	// Of one user 32 calls run and 256 wait; a connection's first ones come before its user
	// is known. As four users they would all have places.
	const callers, want = 4, callsOf
	refused := make(chan string, callers*callsOf)
	for i := range callers {
		cmd := exec.Command(program, "-test.run=^TestNumbersOfOneUser$")
		cmd.Env = append(os.Environ(), callsEnv+"="+w.address)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(3000000000 + i), Gid: 65534}, Pdeathsig: syscall.SIGKILL}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for lines := bufio.NewScanner(out); lines.Scan(); {
				refused <- lines.Text()
			}
		}()
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	end := time.After(time.Minute)
	for n := 0; n < want; n++ {
		select {
		case text := <-refused:
			if text != "org.lull.Error.LimitsExceeded" {
				t.Fatalf("a call has ended with %q, want org.lull.Error.LimitsExceeded", text)
			}
		case <-end:
			t.Fatalf("%d of %d calls were refused, want %d at least", n, callers*callsOf, want)
		}
	}
	if n := running.Load(); n > 32 {
		t.Errorf("%d calls run, want 32 at the most", n)
	}
}

// callMany makes calls, and prints the error of each that is refused.
func callMany(t *testing.T, address string) {
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	calls := make(chan *dbus.Call, callsOf)
	for range callsOf {
		conn.Object(bus.AgentName, bus.AgentPath).Go(bus.ManagerInterface+".Doctor", 0, calls)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for c := range calls {
		var e dbus.Error
		if errors.As(c.Err, &e) {
			fmt.Println(e.Name)
		}
	}
}

// publicDir is a directory that every user can read.
func publicDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "lull-caller-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
