package refresh

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/environment"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/manifest"
	"github.com/lull/lull/agent/lib/messages"
	"github.com/lull/lull/agent/lib/printable"
	"github.com/lull/lull/agent/refresh/plan"
	"github.com/lull/lull/agent/services"
)

// runHook runs one of the hooks of a revision's package, as the user who owns its system
// data, for at most the time that policy allows. It does nothing if there is no hook of that
// name.
func (e *Engine) runHook(ctx context.Context, r *plan.Refresh, pkg digest.Digest, rev uint32, hook string) error {
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
	text, err := e.Services.Run(ctx, services.Hook{
		Instance: r.Instance, Name: hook, Package: pkg, User: services.User(m.Services),
		Argv: append([]string{filepath.Join(dir, argv[0])}, argv[1:]...),
		Env: environment.Apply(append([]string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
			"LULL_HOOK=" + hook,
			"LULL_INSTANCE=" + r.Instance,
			"LULL_REVISION=" + strconv.FormatUint(uint64(rev), 10),
			"LULL_PACKAGE_DIR=" + dir,
			"LULL_DATA=" + data,
			"LULL_COMMON=" + common,
		}, manifest.SubpackageEnv(dir, m)...), m.Environment, map[string]string{manifest.PlacePackage: dir, manifest.PlaceData: data, manifest.PlaceCommon: common}),
	})
	e.Log.Info("a hook has run", messages.Key, messages.HookRan, "instance", r.Instance, "refresh", r.ID, "hook", hook, "output", text, "error", err)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errkind.New(errkind.Failed, "cannot use %s %s: the %s hook of %s did not end within %s", r.Instance, r.ToVersion, hook, m.Version, printable.Duration(limit))
	}
	if text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return errkind.New(errkind.Failed, "cannot use %s %s: the %s hook of %s failed: %w", r.Instance, r.ToVersion, hook, m.Version, err)
}
