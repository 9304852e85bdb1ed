package container_test

import (
	"errors"
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
func write(t *testing.T, w *rig.World, version int, healthy bool, services ...string) {
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
	for path, text := range map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: is tested\napps: [{name: app, command: bin/app}]\nservices: [%s]\nhooks: {health: bin/health}\n",
			name, fmt.Sprint(version), strings.Join(services, ", ")),
		"bin/app":    fmt.Sprintf("#!/bin/sh\necho \"version %d\"\necho $$ > \"$LULL_USER_COMMON/pid\"\n[ \"$1\" = once ] || exec sleep 100000\n", version),
		"bin/svc":    strings.ReplaceAll(service, "VERSION", fmt.Sprint(version)),
		"bin/health": "#!/bin/sh\n" + hook,
	} {
		path = filepath.Join(w.Path(fmt.Sprint("v", version)), path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	w.MustLull("publish", "--repo", w.Repo, w.Path(fmt.Sprint("v", version)))
}

// world has the first version installed, and the agent running.
func world(t *testing.T, services ...string) (*rig.World, *rig.API) {
	t.Helper()
	w := rig.New(t, rig.Options{System: true})
	w.Configure("policy.yaml", "schedule: {check: 31d}\ngc: {watermark: 0, reserve: 0}\n")
	w.MustLull("repo", "init", w.Repo)
	write(t, w, 1, true, services...)
	w.StartAgent()
	api := w.Bus.Watch()
	w.MustLull("repo", "add", "local", w.Repo)
	w.MustLull("install", name)
	return w, api
}

// revision is the one that is current.
func revision(t *testing.T, w *rig.World) string {
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
