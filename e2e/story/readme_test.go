package story_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// TestReadme does what the README proposes as a first session, line by line, as an
// ordinary user and with sudo.
func TestReadme(t *testing.T) {
	require.Unified(t)
	require.Program(t, "dbus-daemon", "setpriv")
	w := rig.New(t, rig.Options{Tracker: "subtree"})
	w.StartAgent()
	examples := filepath.Join(w.User.Home, "examples") // a clone of the user's own
	if err := os.CopyFS(examples, os.DirFS(filepath.Join(rig.Module(), "docs/examples"))); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", w.User.Name, examples).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var notes io.WriteCloser
	var app *rig.Proc
	done := 0
	for _, line := range session(t) {
		words := strings.Fields(line)
		who := w.User
		if words[0] == "sudo" {
			who, words = w.Admin, words[1:]
		}
		if words[0] == "cd" {
			continue
		}
		for i, word := range words {
			switch rest, home := strings.CutPrefix(word, "~"); {
			case home:
				words[i] = w.User.Home + rest
			case word == "notes-1", word == "notes-2":
				words[i] = filepath.Join(examples, word)
			}
		}
		done++
		if words[1] == "run" {
			app = w.User.StartLull(func(cmd *exec.Cmd) { notes = stdin(t, cmd) }, words[1:]...)
			if _, err := io.WriteString(notes, "buy milk\n"); err != nil {
				t.Fatal(err)
			}
			w.UntilFile("the line is kept", 30*time.Second, filepath.Join(w.User.Home, ".local/share/lull/org.example.notes/1/notes.txt"), func(text string) (bool, string) {
				return text == "buy milk\n", text + app.Log()
			})
			continue
		}
		if words[1] == "history" {
			notes.Close()
			refreshed := func() (bool, string) {
				r := w.User.Lull("run", "org.example.notes")
				return strings.Contains(r.Stdout, "version 2") && strings.Contains(r.Stdout, "buy milk"), r.Text()
			}
			w.Until("version 2 runs, with the note of version 1", 30*time.Second, refreshed)
		}
		r := who.Run(words[0], words[1:]...)
		if r.Code != 0 {
			t.Fatalf("got %v, want exit status 0", r)
		}
		if words[1] == "status" && !strings.Contains(r.Stdout, "org.example.notes") {
			t.Errorf("the refresh that waits is not in %v", r)
		}
	}
	if done < 10 || app == nil {
		t.Errorf("the session has only %d commands, or runs no application", done)
	}
}

// session returns the commands of the README's first session.
func session(t *testing.T) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(rig.Module(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(b), "\n## A first session\n")
	part, _, _ = strings.Cut(part, "\n## ")
	for line := range strings.Lines(part) {
		command, indented := strings.CutPrefix(line, "    ")
		command, _, _ = strings.Cut(command, "#")
		if command = strings.TrimSpace(command); indented && command != "" {
			lines = append(lines, command)
		}
	}
	return lines
}

func stdin(t *testing.T, cmd *exec.Cmd) io.WriteCloser {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return in
}
