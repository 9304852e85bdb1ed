// Command scope does what ../scope.c does, in Go: the difference is that of the language.
//
// usage: scope REQUEST OFFSET-OF-PID OFFSET-OF-NAME PROGRAM
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	err := launch(os.Args[1:])
	fmt.Fprintf(os.Stderr, "scope: %v\n", err)
	os.Exit(1)
}

func launch(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("got %d arguments, want 4", len(args))
	}
	request, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	name, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	unique := fmt.Appendf(nil, "%08x", os.Getpid())
	binary.NativeEndian.PutUint32(request[pid:], uint32(os.Getpid()))
	copy(request[name:], unique)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: os.Getenv("XDG_RUNTIME_DIR") + "/systemd/private"}); err != nil {
		return err
	}
	if _, err := unix.Write(fd, request); err != nil {
		return err
	}
	said := make([]byte, 0, 1<<16)
	for { // until JobRemoved, and in it the name of the unit
		n, err := unix.Read(fd, said[len(said):cap(said)])
		if err != nil || n == 0 {
			return fmt.Errorf("systemd has hung up after %d bytes: %v", len(said), err)
		}
		said = said[:len(said)+n]
		if job := bytes.Index(said, []byte("JobRemoved")); job >= 0 && bytes.Contains(said[job:], unique) {
			return unix.Exec(args[3], args[3:], os.Environ())
		}
	}
}
