package story_test

import (
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/story"
)

func TestMain(m *testing.M) { rig.MainWithReleaseAgent(m.Run) }

// logger writes a story into a test's log.
type logger struct {
	t     *testing.T
	began time.Time
}

func (l logger) Step(n int, title string) { l.t.Logf("%6.2fs step %d: %s", l.elapsed(), n, title) }
func (l logger) Say(format string, args ...any) {
	l.t.Logf("%6.2fs "+format, append([]any{l.elapsed()}, args...)...)
}
func (l logger) Ran(r rig.Result) { l.t.Logf("%6.2fs %v", l.elapsed(), r) }
func (l logger) elapsed() float64 { return time.Since(l.began).Seconds() }

// TestStory runs the main job from end to end, as root, with any tracker that
// this machine has.
func TestStory(t *testing.T) {
	require.Root(t)
	require.Program(t, "dbus-daemon", "Xvfb", "dunst", "dunstctl", "import", "xdotool", "busctl", "systemd-inhibit", "systemd-logind", "unshare", "setpriv", "script", "cc")
	require.Lock(t, "freezer")
	story.Tell(t, logger{t, time.Now()}, story.Options{Picture: t.TempDir() + "/notice.png"})
}
