package session_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// inside names the variable that marks the inside of a container.
const inside = "LULL_IN_CONTAINER"

func TestMain(m *testing.M) {
	if os.Getenv(hostile) != "" {
		os.Exit(hostileHelper())
	}
	rig.Main(m.Run)
}

// tests are what TestSessions runs in containers, each in a world of its own.
var tests = []struct {
	name string
	run  func(*testing.T)
}{
	{"WholeData", testWholeData},
	{"Services", testServices},
	{"Ready", testReady},
	{"Undo", testUndo},
	{"HungHelper", testHungHelper},
	{"FrozenSlice", testFrozenSlice},
	{"NoHelper", testNoHelper},
	{"KilledHelper", testKilledHelper},
	{"StaleData", testStaleData},
	{"Hostile", testHostile},
	{"TwoHelpers", testTwoHelpers},
	{"PendingHook", testPendingHook},
	{"Background", testBackground},
	{"ComesAndGoes", testComesAndGoes},
	{"Logind", testLogind},
}

// TestSessions boots the containers.
func TestSessions(t *testing.T) {
	require.Container(t)
	require.NotShort(t)
	bin := rig.Binaries(t, "")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	mounts := []string{bin + ":/opt/lull", self + ":/opt/session.test", rig.Module() + ":/opt/source"}
	env := []string{inside + "=1", "LULL_BIN=/opt/lull", "LULL_SOURCE=/opt/source", "CI=" + os.Getenv("CI"), "HOME=/root"}
	for _, shape := range []struct {
		name    string
		unified bool
	}{{"unified", true}, {"hybrid", false}} {
		t.Run(shape.name, func(t *testing.T) {
			c := rig.Boot(t, shape.unified, mounts...)
			for _, in := range tests {
				if (in.name == "ComesAndGoes" || in.name == "PendingHook" || in.name == "FrozenSlice") && !shape.unified {
					continue // cgroups mean nothing to the first; the others are about the unified hierarchy
				}
				t.Run(in.name, func(t *testing.T) {
					r := c.Service(5*time.Minute, env, "/opt/session.test", "-test.v", "-test.timeout=4m", "-test.run=^TestInside$/^"+in.name+"$")
					t.Logf("%v", r)
					if r.Code != 0 || !strings.Contains(r.Stdout, "--- PASS: TestInside/"+in.name) {
						t.Error("it failed in the container")
					}
					nothingLeft(t, c)
				})
			}
		})
	}
}

func nothingLeft(t *testing.T, c *rig.Container) {
	t.Helper()
	if ps := c.Run("ps", "--no-headers", "-eo", "pid,user,args").Stdout; strings.Contains(ps, "lull") {
		t.Errorf("processes were left behind:\n%s", ps)
	}
	if left := c.Run("sh", "-c", "ls -d /tmp/lull-e2e-* /home/ann /home/bob /home/carl /home/dora 2>/dev/null").Stdout; left != "" {
		t.Errorf("folders were left behind:\n%s", left)
	}
}

// TestInside is run by TestSessions.
func TestInside(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("this part is for the inside of a container: TestSessions runs it")
	}
	for _, c := range tests {
		t.Run(c.name, c.run)
	}
}

const (
	app   = "org.lull.session"
	limit = 60 * time.Second // for any automatic change
)

// TestWithoutSystemd: where no systemd could start them, services of sessions
// are refused, and the error names their needs.
func TestWithoutSystemd(t *testing.T) {
	require.Root(t)
	require.Program(t, "dbus-daemon")
	s := &stage{rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "poll"}, Auto: true})}
	s.publish(1, "{name: one, scope: user, command: [bin/svc, one, TERM]}")
	s.Begin()
	r := s.Lull("install", app)
	if r.Code != 65 || !strings.Contains(r.Stderr, "its service one belongs to users' sessions") || !strings.Contains(r.Stderr, "hint: services of sessions need systemd") {
		t.Errorf("got %v, want exit status 65, %q in the error output and %q in the error output", r, "its service one belongs to users' sessions", "hint: services of sessions need systemd")
	}
}

// stage is a world with the package in its first version installed.
type stage struct {
	*rig.Scene
}

// newStage installs version 1 of the package, which has services.
func newStage(t *testing.T, services string) *stage {
	t.Helper()
	s := &stage{rig.NewScene(t, rig.SceneOptions{Options: rig.Options{System: true}, Auto: true})}
	s.publish(1, services)
	s.Begin()
	s.MustLull("install", app)
	return s
}

// publish writes and publishes a version. The application saves a line in its
// data and shows it; a service notes its events in the common directory;
// version 3 is not healthy. The arguments of a service choose what it does:
// the signal that ends it, or "stubborn", which ignores all, or "slow", which
// ends when its pipe is read.
func (s *stage) publish(version int, services string) {
	s.Helper()
	s.Publish(s.Tree(fmt.Sprint("v", version), map[string]string{
		"lull.yaml": fmt.Sprintf(`name: %s
version: "%d"
summary: has services in sessions
apps: [{name: app, command: bin/app}]
data: {versioned: true}
hooks: {health: bin/health}
services: [%s]
`, app, version, services),
		"bin/app": `#!/bin/sh
case $1 in
save) echo "$2" > "$LULL_USER_DATA/file" ;;
load) cat "$LULL_USER_DATA/file" ;;
stay) echo $$; exec sleep infinity ;;
esac
`,
		"bin/health": fmt.Sprintf("#!/bin/sh\n[ %d != 3 ]\n", version),
		"bin/svc": fmt.Sprintf(`#!/bin/sh
note() { echo "%d $1 $2" >> "$LULL_USER_COMMON/log"; }
[ -d "$LULL_USER_DATA" ] || exit 3
note $1 "$LULL_REVISION up"
[ "$3" != ready ] || systemd-notify --ready
case $2 in
stubborn) trap '' TERM; while :; do sleep 1000; done ;;
slow) trap 'trap "" TERM; note '$1' asked; cat "$LULL_USER_COMMON/pipe"; note '$1' down; exit 0' TERM ;;
*) trap 'note '$1' '$2'; exit 0' $2 ;;
esac
while :; do sleep 1000 & wait $!; done
`, version),
	}))
}

// data names a file below the user's data.
func data(a *rig.Actor, elem ...string) string {
	return filepath.Join(append([]string{a.Home, ".local/share/lull", app}, elem...)...)
}

func (s *stage) save(a *rig.Actor, text string) {
	s.Helper()
	if r := a.Run("lull-run", app, "save", text); r.Code != 0 {
		s.Fatalf("%s cannot save: %v", a.Name, r)
	}
}

// loads checks what the user's application finds.
func (s *stage) loads(a *rig.Actor, want string) {
	s.Helper()
	if r := a.Run("lull-run", app, "load"); r.Code != 0 || strings.TrimSpace(r.Stdout) != want {
		s.Errorf("%s finds %q, want %q: %v", a.Name, r.Stdout, want, r)
	}
}

// orders counts the orders of a phase that a helper has got.
func orders(p *rig.Proc, phase string) int {
	n := 0
	for line := range strings.Lines(p.Log()) {
		if strings.Contains(line, "the agent orders") && strings.Contains(line, "phase="+phase+" ") {
			n++
		}
	}
	return n
}

// untilOrdered waits until a helper has got an order.
func (s *stage) untilOrdered(p *rig.Proc, phase string) {
	s.Helper()
	s.Until(fmt.Sprintf("the helper %d has the order %s", p.PID, phase), limit, func() (bool, string) { return orders(p, phase) > 0, p.Log() })
}

// untilLog waits until a user's services have noted something.
func (s *stage) untilLog(a *rig.Actor, what string) string {
	s.Helper()
	var all string
	s.UntilFile(fmt.Sprintf("the services of %s say %q", a.Name, what), limit, data(a, "common/log"), func(text string) (bool, string) {
		all = text
		return strings.Contains(text, what), text
	})
	return all
}

// untilFolder waits until there is data of a revision.
func (s *stage) untilFolder(a *rig.Actor, rev int) {
	s.Helper()
	path := data(a, fmt.Sprint(rev), "file")
	s.UntilFile(fmt.Sprintf("the data of %s is brought over to %d", a.Name, rev), limit, path, func(text string) (bool, string) { return text != "", text })
}

func has(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// unit is the name of a service's unit, as systemd escapes it.
func unit(service string) string { return "lull-" + app + "-" + service + ".service" }

// show reads a property of a unit.
func show(a *rig.Actor, service, property string) string {
	return strings.TrimSpace(a.Systemctl("show", "--value", "--property="+property, unit(service)))
}
