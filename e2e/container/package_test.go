package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

const (
	name  = "org.lull.contained"
	limit = 30 * time.Second
)

// service is the program of all services: it reports its start, and a request
// to end.
const service = `#!/bin/sh
say() { echo "$1 of VERSION $2" >>"$LULL_COMMON/log"; }
trap 'say $1 ends; exit 0' TERM
say $1 runs
while :; do sleep 1000 & wait; done
`

// write writes a version of the package, whose application runs until it is
// ended. An unhealthy one has a hook that fails.
func write(t *testing.T, w *rig.Scene, version int, healthy bool, services ...string) {
	t.Helper()
	hook := ""
	for _, s := range services {
		if called, _, _ := strings.Cut(strings.TrimPrefix(s, "{name: "), ","); !strings.Contains(s, "endure") {
			hook += fmt.Sprintf("until grep -q '%s of %d runs' \"$LULL_COMMON/log\"; do sleep 0.01; done\n", called, version)
		}
	}
	if !healthy {
		hook += "echo it hurts; exit 1\n"
	}
	w.Publish(w.Tree(fmt.Sprint("v", version), map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: is tested\napps: [{name: app, command: bin/app}]\nservices: [%s]\nhooks: {health: bin/health}\n",
			name, fmt.Sprint(version), strings.Join(services, ", ")),
		"bin/app":    fmt.Sprintf("#!/bin/sh\necho \"version %d\"\necho $$ > \"$LULL_USER_COMMON/pid\"\n[ \"$1\" = once ] || exec sleep 100000\n", version),
		"bin/svc":    strings.ReplaceAll(service, "VERSION", fmt.Sprint(version)),
		"bin/health": "#!/bin/sh\n" + hook,
	}))
}

// collects is the policy of an agent that collects after each refresh.
const collects = "gc: {after-refresh: true}\n"

// world has the first version installed, and the agent running.
func world(t *testing.T, services ...string) *rig.Scene {
	t.Helper()
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{System: true}, Auto: true, Policy: collects})
	write(t, w, 1, true, services...)
	w.Begin()
	w.MustLull("install", name)
	return w
}

// revision is the one that is current.
func revision(t *testing.T, w *rig.Scene) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(w.Store, "current", name))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(target)
}

func same[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
