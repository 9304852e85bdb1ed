package tempdir

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// makes is set in a child of the test, which makes a directory and waits to be killed.
const makes = "LULL_MAKES"

func TestMain(m *testing.M) {
	if os.Getenv(makes) == "" {
		os.Exit(m.Run())
	}
	d, err := Make("lull-test-")
	if err == nil {
		err = os.WriteFile(filepath.Join(d.Path(), "file"), nil, 0o600)
	}
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(d.Path() + "\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// TestKilled: a directory is deleted by the next process once its own was killed, and not
// before.
func TestKilled(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv(makes, "1")
	c := exec.Command(os.Args[0])
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	there := func() (exists bool) {
		d, err := Make("lull-test-")
		if err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(line[:len(line)-1])
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		exists = err == nil
		if err := d.Remove(); err != nil {
			t.Fatal(err)
		}
		return exists
	}
	if exists := there(); !exists {
		t.Error("the directory of a process that runs is deleted, want that it stays")
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // it was killed
	if exists := there(); exists {
		t.Errorf("%s of a killed process is still there, want that it is deleted", line[:len(line)-1])
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v, want nothing", left, err)
	}
}
