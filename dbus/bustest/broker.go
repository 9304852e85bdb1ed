package bustest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
)

// brokerEnv has Start run a dbus-broker instead of a dbus-daemon.
const brokerEnv = "LULL_TEST_BUS"

// brokerScript gives the launcher the journal that it insists on, in $1, and the
// listening socket as systemd would.
const brokerScript = `set -e
mount -t tmpfs lull-bus /run/systemd
mkdir /run/systemd/journal
touch /run/systemd/journal/socket
mount --bind "$1" /run/systemd/journal/socket
export LISTEN_FDS=1 LISTEN_PID=$$
exec dbus-broker-launch --scope user --config-file="$2"
`

// Broker reports whether Start runs a dbus-broker.
func Broker() bool { return os.Getenv(brokerEnv) != "" }

// OnBroker repeats the tests of the calling package on dbus-broker.
func OnBroker(t *testing.T) {
	t.Helper()
	if Broker() {
		t.Skip("this is on dbus-broker")
	}
	require.Root(t)
	require.Program(t, "dbus-broker-launch", "dbus-broker", "unshare")
	if _, err := os.Stat("/run/systemd"); err != nil {
		require.Missing(t, "needs a directory /run/systemd for the journal's socket")
	}
	args := []string{"-test.timeout=5m"}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), brokerEnv+"=broker")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("on dbus-broker: %v\n%s", err, out)
	} else if !bytes.HasSuffix(bytes.TrimSpace(out), []byte("PASS")) {
		t.Errorf("nothing was tested on dbus-broker:\n%s", out)
	}
}

// startBroker runs a dbus-broker with a configuration. Nothing can be started by it,
// as there is no systemd.
func startBroker(t testing.TB, dir, file string) string {
	t.Helper()
	socket := filepath.Join(dir, "bus")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	defer f.Close()
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "journal"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		var all strings.Builder
		for b := make([]byte, 64<<10); ; {
			n, err := journal.Read(b)
			if err != nil {
				said <- all.String()
				return
			}
			for line := range strings.Lines(string(b[:n])) {
				if text, ok := strings.CutPrefix(line, "MESSAGE="); ok {
					all.WriteString(text)
				}
			}
		}
	}()
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "--", "sh", "-c", brokerScript, "sh", filepath.Join(dir, "journal"), file)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "XDG_RUNTIME_DIR=" + dir} // where it finds itself
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		journal.Close()
		if text := <-said; t.Failed() {
			t.Logf("dbus-broker said:\n%s%s", stderr.String(), text)
		}
	})
	return "unix:path=" + socket // which listens: who connects waits until it is served
}
