// Package bustest runs private message buses for tests: a dbus-daemon without
// service directories, so that nothing is started behind a test's back. OnBroker
// has a package tested on dbus-broker, too.
package bustest

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
)

const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>%s</type>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
  %s
</busconfig>
`

// Start runs a bus that allows everything to all users, and returns its
// address. It ends with the test.
func Start(t testing.TB) string { return StartWith(t, "session", "") }

// StartWith runs a bus of a type (session or system), with more text in its
// configuration.
func StartWith(t testing.TB, kind, more string) string {
	t.Helper()
	require.Program(t, "dbus-daemon")
	// A socket's path is at most 107 bytes: test directories can be too deep.
	dir, err := os.MkdirTemp("", "lull-bus-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bus.conf")
	text := fmt.Sprintf(config, kind, filepath.Join(dir, "bus"), more)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if Broker() {
		return startBroker(t, dir, file)
	}
	cmd := exec.Command("dbus-daemon", "--nofork", "--config-file="+file, "--print-address=1")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dbus-daemon said:\n%s", said.String())
		}
	})
	address, err := bufio.NewReader(out).ReadString('\n') // it listens by then
	if err != nil {
		t.Fatalf("dbus-daemon has printed no address: %v", err)
	}
	return strings.TrimSpace(address)
}
