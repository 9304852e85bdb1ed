package container_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestRootless follows docs/rootless.md word by word, as an ordinary user in a fresh home:
// from nothing to a refreshed application, and back.
func TestRootless(t *testing.T) {
	here(t)
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Log("an agent of one's own needs cgroup v2")
		return
	}
	b, err := os.ReadFile(filepath.Join(rig.Module(), "docs/rootless.md"))
	if err != nil {
		t.Fatal(err)
	}
	u := &ownUser{T: t}
	t.Cleanup(func() { // other tests have this user too
		if t.Failed() {
			stop := u.shell(context.Background(), "systemctl --user disable --now lulld.service lull-userd.path lull-userd.service")
			if out, err := stop.CombinedOutput(); err != nil {
				t.Logf("%v: %v\n%s", stop, err, out)
			}
		}
	})
	for _, line := range u.commands(string(b), "From nothing to a refreshed application") {
		switch {
		case line == "make install-user": // the container has no make and no Go
			u.run("BIN=/opt/lull units/install-user")
		case strings.HasPrefix(line, "export "):
			u.exports += line + "\n"
		case strings.HasPrefix(line, "lull --user run "):
			u.open(line)
		case line == "lull --user history":
			// The one who follows this has closed the application by now.
			u.close()
			u.run("lull --user refresh org.example.notes")
			u.shows(line, "org.example.notes", "1 → 2")
		case line == "lull --user pending":
			u.shows(line, "org.example.notes")
			// The path unit starts the helper, which serves this agent.
			u.shows("until busctl --user get-property org.lull.Session1 /org/lull/Session1 org.lull.Session1 AgentPresent | grep true; do :; done", "true")
		default:
			u.run(line)
		}
	}
	u.shows("lull --user list", "org.example.notes  2")
	u.shows("cat ~/.local/share/lull-user/org.example.notes/*/notes.txt", "a line\n")
	u.shows("command -v org.example.notes", "/.local/state/lull/exports/bin/org.example.notes")
	u.shows("lull --user policy check", ".config/lull has no policy files, so the defaults apply")
	for _, line := range u.commands(string(b), "Removing it") {
		u.run(line)
	}
	u.shows("ls ~/.local/share/lull-user", "org.example.notes")
}

// ownUser is the user who runs this test, at a shell in the source of lull.
type ownUser struct {
	*testing.T
	exports string
	app     *exec.Cmd
	typing  io.WriteCloser
}

// commands are the indented lines of a section.
func (u *ownUser) commands(text, section string) (list []string) {
	u.Helper()
	_, text, ok := strings.Cut(text, "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	for line := range strings.Lines(text) {
		if c, indented := strings.CutPrefix(line, "    "); indented {
			list = append(list, strings.TrimSpace(c))
		}
	}
	if !ok || len(list) == 0 {
		u.Fatalf("no commands in section %q", section)
	}
	return list
}

func (u *ownUser) shell(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-ec", u.exports+script)
	cmd.Dir = rig.Module()
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	return cmd
}

func (u *ownUser) run(script string) string {
	u.Helper()
	ctx, cancel := context.WithTimeout(u.Context(), limit)
	defer cancel()
	out, err := u.shell(ctx, script).CombinedOutput()
	if err != nil {
		log, _ := exec.Command("journalctl", "--user", "-n", "40", "--no-pager").CombinedOutput()
		u.Fatalf("%s: %v\n%s\n%s", script, err, out, log)
	}
	return string(out)
}

func (u *ownUser) shows(script string, wants ...string) {
	u.Helper()
	out := u.run(script)
	for _, want := range wants {
		if !strings.Contains(out, want) {
			u.Errorf("%s does not show %q:\n%s", script, want, out)
		}
	}
}

// open starts the application, types a line and leaves it open.
func (u *ownUser) open(script string) {
	u.Helper()
	u.app = u.shell(u.Context(), "exec "+script)
	out, err := u.app.StdoutPipe()
	if err == nil {
		u.typing, err = u.app.StdinPipe()
	}
	if err == nil {
		err = u.app.Start()
	}
	if err != nil {
		u.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); !strings.Contains(line, "version 1") {
		u.Fatalf("the application shows %q: %v; want %q in the line", line, err, "version 1")
	}
	if _, err := io.WriteString(u.typing, "a line\n"); err != nil {
		u.Fatal(err)
	}
}

func (u *ownUser) close() {
	u.Helper()
	u.typing.Close()
	if err := u.app.Wait(); err != nil {
		u.Errorf("the application: %v", err)
	}
}
