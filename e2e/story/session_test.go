package story_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
	"github.com/lull/lull/e2e/story"
)

// inside names the variable that marks the inside of a container that
// TestContainers has booted.
const inside = "LULL_IN_CONTAINER"

// TestContainers boots systemd in containers, with the unified cgroup hierarchy
// alone and with the hybrid one, and runs the story in each: by an ordinary
// user with an agent of his own, as `make demo` does, and on the system bus.
// Both use systemd's scopes, a real session, logind and journal.
func TestContainers(t *testing.T) {
	require.Container(t)
	require.NotShort(t)
	bin := rig.Binaries(t, "")
	programs := t.TempDir()
	for _, dir := range []string{programs, filepath.Dir(programs)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{sample.V1, sample.V2, story.V3, story.V4} {
		sample.Programs(t, programs, version, "-"+version)
	}
	rig.GoBuild(t, "./e2e/demo", filepath.Join(programs, "demo"), nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Nothing below /tmp is seen in a container, where systemd mounts its own.
	mounts := []string{bin + ":/opt/lull", programs + ":/opt/sample", self + ":/opt/story.test", rig.Module() + ":/opt/source"}
	env := []string{inside + "=1", "LULL_BIN=/opt/lull", "LULL_SOURCE=/opt/source", "LULL_SAMPLE=/opt/sample", "CI=" + os.Getenv("CI")}
	for _, shape := range []struct {
		name    string
		unified bool
	}{{"unified", true}, {"hybrid", false}} {
		t.Run(shape.name, func(t *testing.T) {
			t.Run("an ordinary user", func(t *testing.T) {
				c := rig.Boot(t, shape.unified, mounts...)
				passed(t, c.Login(2*time.Minute, env, "/opt/sample/demo"), "That was all")
				nothingLeft(t, c)
			})
			t.Run("the system bus", func(t *testing.T) {
				c := rig.Boot(t, shape.unified, mounts...)
				passed(t, c.Service(2*time.Minute, append(env, "HOME=/root"), "/opt/story.test", "-test.v", "-test.run=^TestStoryOnSystemBus$"), "--- PASS: TestStoryOnSystemBus")
				nothingLeft(t, c)
			})
		})
	}
}

// passed checks that a program in a container did what it should.
func passed(t *testing.T, r rig.Result, want string) {
	t.Helper()
	t.Logf("%v", r)
	if r.Code != 0 || !strings.Contains(r.Stdout, want) || !strings.Contains(r.Stdout, `tracker "scope"`) {
		t.Errorf("it failed in the container")
	}
}

// nothingLeft checks that a story has left no process and no unit behind.
func nothingLeft(t *testing.T, c *rig.Container) {
	t.Helper()
	// The suite's own process that removes a folder after its program has ended is one of them.
	ps := ""
	gone := func() bool {
		ps = c.Run("ps", "--no-headers", "-eo", "pid,user,args").Stdout
		return !strings.Contains(ps, "lull")
	}
	for end := time.Now().Add(time.Minute); !gone(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("processes were left behind:\n%s", ps)
			break
		}
	}
	units := c.Run("systemctl", "--no-legend", "--no-pager", "list-units", "lull-*").Stdout
	units += c.Login(time.Minute, nil, "systemctl", "--user", "--no-legend", "--no-pager", "list-units", "lull-*").Stdout
	if strings.TrimSpace(units) != "" {
		t.Errorf("units were left behind:\n%s", units)
	}
	if dirs := c.Run("sh", "-c", "ls -d /tmp/lull-e2e-* /home/tester/.local/share/lull /home/tester/.local/share/lull-user 2>/dev/null").Stdout; dirs != "" {
		t.Errorf("folders were left behind:\n%s%s", dirs, c.Run("loginctl", "list-sessions").Stdout)
	}
}

// TestStoryOnSystemBus is run by TestContainers.
func TestStoryOnSystemBus(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("this part is for the inside of a container: TestContainers runs it")
	}
	story.Tell(t, teller{time.Now()}, story.Options{System: true})
}

// teller prints a story on the standard output at once: a killed test has
// printed where it was.
type teller struct{ began time.Time }

func (l teller) Step(n int, title string) { l.Say("step %d: %s", n, title) }
func (l teller) Say(format string, args ...any) {
	fmt.Printf("%6.2fs %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
}
func (l teller) Ran(r rig.Result) { l.Say("%v", r) }
