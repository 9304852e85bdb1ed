package refresh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/agent/digest"
	"github.com/lull/lull/agent/problem"
)

// maxHookOutput is how much of a hook's output the journal gets, in bytes from its end.
const maxHookOutput = 4 << 10

// runHook runs one of the hooks of a revision's package as the agent's user, in a
// session of its own, for at most the time that policy allows. No hook of that
// name: nothing happens.
func (e *Engine) runHook(ctx context.Context, r *Refresh, pkg digest.Digest, rev uint32, hook string) error {
	m, err := e.Store.Launch(pkg)
	if err != nil {
		return err
	}
	argv := m.Hooks[hook]
	if len(argv) == 0 {
		return nil
	}
	limit := e.Policy().For(r.Instance).HookTimeLimit
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	dir := e.Store.PackageDir(pkg)
	common := filepath.Join(e.Root, "data", r.Instance, "common")
	data := common
	if m.Data.Versioned {
		data = e.dataDir(r.Instance, rev)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, argv[0]), argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
		"LULL_HOOK=" + hook,
		"LULL_INSTANCE=" + r.Instance,
		"LULL_REVISION=" + strconv.FormatUint(uint64(rev), 10),
		"LULL_PACKAGE_DIR=" + dir,
		"LULL_DATA=" + data,
		"LULL_COMMON=" + common,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &tail{&out}, &tail{&out}
	err = cmd.Run()
	text := strings.TrimSpace(out.String())
	e.Log.Info("a hook has run", "instance", r.Instance, "refresh", r.ID, "hook", hook, "output", text, "error", err)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return problem.New(problem.Failed, "cannot use %s %s: the %s hook of %s did not end within %s", r.Instance, r.ToVersion, hook, m.Version, limit)
	}
	if text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return problem.New(problem.Failed, "cannot use %s %s: the %s hook of %s failed: %w", r.Instance, r.ToVersion, hook, m.Version, err)
}

// tail keeps the end of what is written to it.
type tail struct{ b *bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.b.Write(p)
	if over := t.b.Len() - maxHookOutput; over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}
