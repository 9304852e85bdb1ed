// Command guest is what the test needs in a machine: `guest keep`, the service
// of a package, which keeps a ledger, `guest look`, which reports what a boot has
// found, `guest take`, which takes news of a repository, and `guest serve`, a web server for it.
package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/durable"
	"github.com/lull/lull/e2e/powercut/check"
	"github.com/lull/lull/e2e/powercut/ledger"
)

func main() {
	err := errors.New("usage: keep, take DIRECTORY, serve DIRECTORY, or look ROOT RUN")
	switch {
	case len(os.Args) == 2 && os.Args[1] == "keep":
		err = keep(os.Getenv("LULL_DATA"), os.Getenv("LULL_COMMON"))
	case len(os.Args) == 3 && os.Args[1] == "take":
		err = take(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "look":
		var r *check.Report
		if r, err = check.Look(os.Args[2], os.Args[3]); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(r)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

// pace is that of steps. Each flushes, and so saves others from being caught:
// there must not be too many.
const pace = 300 * time.Millisecond

// keep takes the ledger over, steps it until it is asked to end, and seals it.
func keep(dir, common string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	revision, err := strconv.Atoi(os.Getenv("LULL_REVISION"))
	if err != nil {
		return err
	}
	s, err := open(dir, revision)
	if err != nil {
		// In a place where the next check of the disk finds it, too.
		return errors.Join(err, durable.WriteFile(filepath.Join(common, "broken"), fmt.Appendf(nil, "revision %d: %v\n", revision, err), 0o644))
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := s.Step; ; n++ {
		select {
		case <-stop:
			return ledger.Seal(dir, n)
		case <-tick.C:
			if err := ledger.Step(dir, n); err != nil {
				return err
			}
		}
	}
}

func open(dir string, revision int) (ledger.State, error) {
	s, err := ledger.Read(dir)
	if err == nil && !s.Ready {
		if err = ledger.Begin(dir); err == nil {
			s, err = ledger.Read(dir)
		}
	}
	if err == nil && s.By != revision {
		err = ledger.TakeOver(dir, s.Step, revision)
	}
	if err == nil {
		err = ledger.Unseal(dir)
	}
	return s, err
}

// take unpacks an archive, each file by a rename and in the archive's order.
func take(dir string) error {
	for r := tar.NewReader(os.Stdin); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path+".new", b, 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
}

// serve serves a directory on the loopback interface, which nobody else brings up.
func serve(dir string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:80")
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return http.Serve(l, http.FileServer(http.Dir(dir)))
}
