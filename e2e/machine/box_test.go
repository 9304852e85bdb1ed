package machine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// box is a container that keeps its changes from boot to boot.
type box struct {
	*rig.Container // the last boot
	t              *testing.T
	options        rig.ContainerOptions
}

// newBox boots one with files, by their paths in it.
func newBox(t *testing.T, files map[string]string) *box {
	t.Helper()
	keep, err := os.MkdirTemp("", "lull-keep-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(keep) })
	upper := filepath.Join(keep, "upper")
	must(t, os.MkdirAll(filepath.Join(upper, "var/log/journal"), 0o755))
	for to, from := range files {
		to = filepath.Join(upper, to)
		must(t, os.MkdirAll(filepath.Dir(to), 0o755))
		if out, err := exec.Command("cp", "-a", "--no-preserve=ownership", "--no-target-directory", from, to).CombinedOutput(); err != nil {
			t.Fatalf("cannot make a container: %v\n%s", err, out)
		}
	}
	b := &box{t: t, options: rig.ContainerOptions{Keep: keep, Failures: true}}
	b.Boot()
	return b
}

func (b *box) Boot() {
	b.t.Helper()
	b.Container = rig.BootContainer(b.t, b.options)
}

func (b *box) RunWithin(limit time.Duration, argv ...string) rig.Result {
	b.t.Helper()
	r, err := b.Try(limit, argv...)
	if err != nil {
		b.t.Fatalf("cannot run %s in the container: %v\n%v", argv[0], err, r)
	}
	return r
}

func (b *box) WaitExit(limit time.Duration) error {
	b.t.Helper()
	b.AwaitOff(limit)
	return nil
}

func (b *box) Poweroff() {
	b.t.Helper()
	b.Start("systemctl", "poweroff")
	b.AwaitOff(limit)
}
