package files_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/e2e/rig"
)

// client is a program that sends files by plain bus calls.
type client struct{ *dbus.Conn }

func (s *scene) client() client { return client{s.Bus.Connect()} }

func (c client) call(method string, args ...any) *dbus.Call {
	return c.Object(rig.AgentName, rig.AgentPath).Call(rig.AgentName+".Manager."+method, 0, args...)
}

// begin asks for the descriptor of a file.
func (c client) begin(name string) (to *os.File, id string, err error) {
	var fd dbus.UnixFD
	if err := c.call("SendFile", name).Store(&fd, &id); err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), name), id, nil
}

// send sends a file.
func (c client) send(t *testing.T, file string) (id string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	to, id, err := c.begin(filepath.Base(file))
	if err == nil {
		_, err = to.Write(b)
	}
	if err == nil {
		err = to.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (c client) install(t *testing.T, options map[string]dbus.Variant, ids ...string) (path dbus.ObjectPath, made map[string]dbus.Variant) {
	t.Helper()
	if err := c.call("InstallFiles", ids, options).Store(&path, &made); err != nil {
		t.Fatal(err)
	}
	return path, made
}

var none = map[string]dbus.Variant{}

// kind is the name of a bus error.
func kind(err error) string {
	var e dbus.Error
	if !errors.As(err, &e) {
		return ""
	}
	return strings.TrimPrefix(e.Name, "org.lull.Error.")
}

// TestClients: a file belongs to the connection that has sent it, and goes with it.
func TestClients(t *testing.T) {
	s := set(t, rig.Options{})
	file := s.tarball("1.0", nil)
	c, other := s.client(), s.client()
	for _, name := range []string{"", ".", "..", "a/b", "a\nb", strings.Repeat("x", 300), "\u202egpj"} {
		if _, _, err := c.begin(name); kind(err) != "InvalidArgument" {
			t.Errorf("the name %q: got error %v, want InvalidArgument", name, err)
		}
	}
	id := c.send(t, file)
	if err := other.call("InstallFiles", []string{id}, none).Err; kind(err) != "NotFound" {
		t.Errorf("the file of another connection: got error %v, want NotFound", err)
	}
	if err := c.call("InstallFiles", []string{}, none).Err; kind(err) != "InvalidArgument" {
		t.Errorf("no file: got error %v, want InvalidArgument", err)
	}
	mine, theirs := make(chan *dbus.Signal, 256), make(chan *dbus.Signal, 256)
	c.Signal(mine)
	other.Signal(theirs)
	c.install(t, none, id)
	for _, step := range []string{"convert", "compress"} {
		progressed(t, mine, id, step)
	}
	if err := errors.Join(c.call("Check").Err, other.call("Check").Err); err != nil {
		t.Fatal(err)
	}
	for len(theirs) > 0 { // those before the reply are here
		if sig := <-theirs; strings.HasSuffix(sig.Name, ".FilesProgress") {
			t.Errorf("another connection has received %s %v, want that the sender alone does", sig.Name, sig.Body)
		}
	}
	c.RemoveSignal(mine)
	other.RemoveSignal(theirs)
	if err := c.call("InstallFiles", []string{id}, none).Err; kind(err) != "NotFound" {
		t.Errorf("a file that was used: got error %v, want NotFound", err)
	}
	s.clean()

	// 1,024 that are not finished, of one user in two connections.
	var open []*os.File
	for i := range 1025 {
		to, _, err := []client{c, other}[i%2].begin("x.tar")
		if i < 1024 {
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, to)
		} else if kind(err) != "LimitsExceeded" {
			t.Errorf("file 1025: got error %v, want LimitsExceeded", err)
		}
	}
	c.Close()
	other.Close()
	s.clean()
	for _, to := range open {
		if _, err := to.Write([]byte("late")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("a write after the client has left the bus: %v", err)
		}
		to.Close()
	}

	// A call whose caller leaves is given up.
	c = s.client()
	to, id, err := c.begin("x.tar")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	call := c.Object(rig.AgentName, rig.AgentPath).Go(rig.AgentName+".Manager.InstallFiles", 0, make(chan *dbus.Call, 1), []string{id}, none)
	if err := c.call("Check").Err; err != nil { // the calls of a connection arrive in order
		t.Fatal(err)
	}
	c.Close()
	<-call.Done
	s.clean()
}

// progressed waits for the signal that a step of the making of a package has ended.
func progressed(t *testing.T, signals <-chan *dbus.Signal, id, step string) {
	t.Helper()
	end := time.After(limit)
	var last []any
	for {
		select {
		case sig := <-signals:
			var ids []string
			var s string
			var done, total uint64
			if !strings.HasSuffix(sig.Name, ".FilesProgress") || dbus.Store(sig.Body, &ids, &s, &done, &total) != nil {
				continue
			}
			if last = sig.Body; slices.Equal(ids, []string{id}) && s == step && done == total && total > 0 {
				return
			}
		case <-end:
			t.Errorf("the last progress is %v, want all bytes of the step %s of file %s", last, step, id)
			return
		}
	}
}

// TestNotPermitted: a user without the right sends no byte; one with it needs no other.
func TestNotPermitted(t *testing.T) {
	s := set(t, rig.Options{})
	file := s.tarball("1.0", nil)
	if r := s.User.Lull("install", file); r.Code != 77 || !strings.Contains(r.Stderr, "cannot install packages from files") {
		t.Errorf("without polkit: %v", r)
	}
	left, err := filepath.Glob(filepath.Join(s.Store, ".file-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("got %v %v, want no error and 0 left", left, err)
	}
	s.StartPolkit(`polkit.addRule(function(action, subject) { if (action.id == "org.lull.install-file") return polkit.Result.YES; });`)
	if r := s.User.Lull("install", file); r.Code != 0 {
		t.Errorf("with the right: got %v, want exit status 0", r)
	}
	s.runs("1.0")
	if r := s.User.Lull("remove", notes); r.Code != 77 {
		t.Errorf("another right: got %v, want exit status 77", r)
	}
}
