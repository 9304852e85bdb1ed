package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/lull/lull/agent/lib/errkind"
	bus "github.com/lull/lull/dbus"
)

// SendFile reads the sent file. If change is that file, it first appends to it, after it has
// received a part.
func (f *fakeAgent) SendFile(_ bus.Caller, name string) (*os.File, string, error) {
	if f.space.older() {
		return nil, "", lacks("Manager.SendFile")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, "", err
	}
	got := make(chan string, 1)
	f.mu.Lock()
	f.sent = got
	change := f.change
	f.mu.Unlock()
	go func() {
		defer r.Close()
		first := make([]byte, 1)
		if _, err := io.ReadFull(r, first); err != nil {
			got <- err.Error()
			return
		}
		if change != "" {
			if err := os.WriteFile(change, []byte("something else"), 0o600); err != nil {
				got <- err.Error()
				return
			}
		}
		rest, err := io.ReadAll(r)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- name + ": " + string(first) + string(rest)
	}()
	return w, name, nil
}

// InstallFiles installs a package without rights, unless its file is rights.zip.
func (f *fakeAgent) InstallFiles(_ bus.Caller, ids []string, o bus.InstallFilesOptions) (dbus.ObjectPath, bus.ConvertedPackage, error) {
	made := bus.ConvertedPackage{Name: "org.example.thing", Instance: "org.example.thing", Version: "1.1", Remarks: []string{"a: it is a device and is left out"}}
	switch {
	case ids[0] == "rights.zip" && o.Confirm == "":
		made.Rights, made.Confirm = []string{"the service a runs as root: b"}, strings.Repeat("c", 64)
		return "/", made, nil
	case ids[0] == "same.zip":
		return "/", made, nil
	case ids[0] == "bad.zip":
		return "/", made, errkind.New(errkind.Invalid, "cannot convert bad.zip: it is damaged")
	}
	path, err := f.start("install", "org.example.thing")
	return path, made, err
}

// TestInstallFile: the command's requests, output and refusals.
func TestInstallFile(t *testing.T) {
	f := startAgent(t)
	dir := t.TempDir()
	install := func(stdin io.Reader, name string, args ...string) (code int, out, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, bytes.Repeat([]byte("0123456789abcdef"), 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		code = run(t.Context(), append([]string{"--bus", f.address, "install", file}, args...), stdin, &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	code, out, text := install(strings.NewReader(""), "thing.zip")
	if code != 0 || out != "org.example.thing 1.1 is installed\n" || !strings.Contains(text, "a: it is a device and is left out") {
		t.Errorf("%d, %q, %q; want code 0, output %q and %q in the text", code, out, text, "org.example.thing 1.1 is installed\n", "a: it is a device and is left out")
	}
	f.mu.Lock()
	got := f.sent
	f.mu.Unlock()
	if sent := <-got; sent != "thing.zip: "+strings.Repeat("0123456789abcdef", 64<<10) {
		t.Errorf("got %d bytes sent, %.80q…; want the name and the content of thing.zip, %d bytes", len(sent), sent, len("thing.zip: ")+16*64<<10)
	}
	if code, out, _ := install(nil, "same.zip"); code != 0 || out != "org.example.thing 1.1 is already installed\n" {
		t.Errorf("the same: %d, %q; want code 0 and output %q", code, out, "org.example.thing 1.1 is already installed\n")
	}
	if code, _, text := install(nil, "bad.zip"); code != 65 || !strings.Contains(text, "lull: cannot convert bad.zip: it is damaged\n") {
		t.Errorf("a bad file: %d, %q; want code 65 and %q in the text", code, text, "lull: cannot convert bad.zip: it is damaged\n")
	}
	if code, out, text := install(strings.NewReader("y\n"), "rights.zip"); code != 77 || out != "" || !strings.Contains(text, "  the service a runs as root: b\n") {
		t.Errorf("rights, not on a terminal: got exit status %d, output %q and text %q; want 77, no output and \"  the service a runs as root: b\\n\"", code, out, text)
	}
	if code, out, text := install(nil, "rights.zip", "--yes"); code != 0 || out != "org.example.thing 1.1 is installed\n" {
		t.Errorf("rights, confirmed: %d, %q, %q; want code 0 and output %q", code, out, text, "org.example.thing 1.1 is installed\n")
	}
	f.mu.Lock()
	f.change = filepath.Join(dir, "changes.zip")
	f.mu.Unlock()
	if code, _, text := install(nil, "changes.zip"); code != 65 || !strings.Contains(text, "it has changed meanwhile") {
		t.Errorf("a file that changes: %d, %q; want code 65 and %q in the text", code, text, "it has changed meanwhile")
	}
}
