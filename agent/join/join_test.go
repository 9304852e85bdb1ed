package join

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runctl"
)

// TestOnlyLaunchersAreMoved: a process that has got the PID of one that had connected does
// not hold the lock, or belongs to another user.
func TestOnlyLaunchersAreMoved(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "runctl"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctl, err := runctl.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctl.CreateInstance("notes"); err != nil {
		t.Fatal(err)
	}
	j := &Joiner{Runctl: ctl}
	other := exec.Command("cat")
	in, err := other.StdinPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer in.Close()
	uid := uint32(os.Getuid())
	refused := func(uid uint32, pid int, want string) {
		t.Helper()
		err := j.launches("notes", uid, pid)
		if !errkind.Is(err, errkind.NotPermitted) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused(uid, other.Process.Pid, "does not hold its launch lock")
	refused(uid, os.Getpid(), "does not hold its launch lock")
	lock, err := ctl.ReadLock(t.Context(), "notes")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	refused(uid, other.Process.Pid, "does not hold its launch lock")
	refused(uid+1, os.Getpid(), "is not user")
}
