package engine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
)

// TestLayout: an application and a service with compiled-in paths run from the package. A
// refresh waits for a program that was started by such a path, GC keeps its package, and a
// revert brings the old parts back.
func TestLayout(t *testing.T) {
	const name = "org.lull.layout"
	s := set(t, "")
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(version string) {
		const layout = "layout: {/opt/lull-test.engine/sleep: sleep, /usr/share/lull-test.engine/deep/version: version}\n"
		s.publish(app(name, version, service+layout), map[string]string{
			"app": `read version </usr/share/lull-test.engine/deep/version; echo "parts of version $version"
exec /opt/lull-test.engine/sleep 100000`,
			"daemon": `read version </usr/share/lull-test.engine/deep/version; echo "$version" >"$LULL_COMMON/version.new"; mv "$LULL_COMMON/version.new" "$LULL_COMMON/version"
exec /opt/lull-test.engine/sleep 100000`,
		}, map[string][]byte{"sleep": program, "version": []byte(version + "\n")})
	}
	has := func(run *rig.Proc, version string) {
		t.Helper()
		s.Until("the application has its parts", limit, func() (bool, string) {
			return strings.Contains(run.Log(), "parts of version "+version+"\n"), run.Log()
		})
	}
	daemon := func(version string) {
		t.Helper()
		s.UntilFile("the service has its parts", limit, filepath.Join(s.Store, "data", name, "common/version"), func(got string) (bool, string) {
			return strings.TrimSpace(got) == version, got
		})
	}
	publish("1")
	s.Begin()
	s.MustLull("install", name)
	daemon("1")
	run, _ := s.waiting(name, "2", func() { publish("2") })
	has(run, "1")
	p, _ := s.API.Package(name)
	if why := s.MustLull("why", p.Str("Hash")).Stdout; !strings.Contains(why, strconv.Itoa(run.PID)) {
		t.Errorf("lull why: want process %d named, got\n%s", run.PID, why)
	}
	s.MustLull("gc")
	if run.Ended() {
		t.Errorf("after gc the application has ended, want it to run: %s", run.Log())
	}
	daemon("1")
	run.Stop()
	s.UntilState(name, "2", "done")
	daemon("2")

	run = s.User.StartLull(nil, "run", name)
	has(run, "2")
	run.Stop()
	s.MustLull("revert", name)
	daemon("1")
	run = s.User.StartLull(nil, "run", name)
	has(run, "1")
	run.Stop()
	for _, dir := range []string{"/opt/lull-test.engine", "/usr/share/lull-test.engine"} {
		if _, err := os.Lstat(dir); !os.IsNotExist(err) {
			t.Errorf("%s on the host: got error %v, want that it does not exist", dir, err)
		}
	}
}
