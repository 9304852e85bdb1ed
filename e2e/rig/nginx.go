package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/e2e/require"
)

// Nginx starts nginx with its files in a directory, until the test ends. The configuration is
// the content of an http block, with the word ADDRESS for the address on which it listens. The
// address is returned when it accepts connections.
func Nginx(tb TB, dir, http string) (address string) {
	tb.Helper()
	program, err := require.Find("nginx")
	if err != nil {
		tb.Fatalf("cannot start nginx: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("cannot find an address for nginx: %v", err)
	}
	address = l.Addr().String()
	l.Close()
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log; user root;
events { worker_connections 256; }
http {
client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
%[2]s}
`, dir, strings.ReplaceAll(http, "ADDRESS", address))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		tb.Fatalf("cannot configure nginx: %v", err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("cannot start nginx: %v", err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // no event reports that it listens
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return address
		}
		if time.Now().After(end) {
			tb.Fatalf("nginx does not listen: %v", err)
		}
	}
}
