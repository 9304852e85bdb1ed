package runs

import (
	"log/slog"
	"slices"

	"github.com/lull/lull/agent/lib/cgroup"
	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/lib/runctl"
)

// wants are the words for Options.Want.
var wants = []string{"auto", "scope", "freezer", "subtree", "poll", "poll-procs", "poll-runctl"}

// Choose starts the tracker that is wanted, or the best that this machine can
// do: scope, freezer, subtree. The poll words select the best of the last
// two, made to poll. Kind Unavailable: this machine does not support the wanted one.
func Choose(opts Options) (Tracker, error) {
	if opts.Want == "" {
		opts.Want = "auto"
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if !slices.Contains(wants, opts.Want) {
		return nil, errkind.New(errkind.Usage, "cannot use %q as a tracker: want one of %q", opts.Want, wants)
	}
	layout := opts.Layout
	if layout == nil {
		l, err := cgroup.Mounts()
		if err != nil {
			return nil, err
		}
		layout = &l
	}
	ctl, err := runctl.Create(opts.RunDir)
	if err != nil {
		return nil, err
	}
	t, err := choose(ctl, *layout, opts)
	if err != nil {
		return nil, err
	}
	opts.Log.Info("tracking runs", "tracker", t.Name(), "events", t.Events())
	return t, nil
}

func choose(ctl *runctl.Dir, l cgroup.Layout, opts Options) (Tracker, error) {
	scope := func() (Tracker, error) { return tracker(newScope(ctl, l, opts)) }
	freezer := func() (Tracker, error) { return tracker(newFreezer(ctl, l, opts)) }
	subtree := func() (Tracker, error) { return tracker(newSubtree(ctl, l, opts)) }
	var try []func() (Tracker, error)
	switch {
	case opts.UserMode && (opts.Want == "auto" || opts.Want == "scope"):
		try = append(try, scope)
	case opts.UserMode:
		return nil, errkind.New(errkind.Unavailable, "cannot use the %s tracker without root: only scope works there", opts.Want)
	case opts.Want == "scope":
		try = append(try, scope)
	case opts.Want == "freezer", opts.Want == "poll-runctl":
		try = append(try, freezer)
	case opts.Want == "subtree":
		try = append(try, subtree)
	case opts.Want == "auto":
		try = append(try, scope, freezer, subtree)
	default:
		try = append(try, freezer, subtree)
	}
	var first error
	for _, f := range try {
		t, err := f()
		if err == nil {
			return t, nil
		}
		if !errkind.Is(err, errkind.Unavailable) {
			return nil, err
		}
		if first == nil {
			first = err
		}
	}
	if len(try) == 1 {
		return nil, first
	}
	return nil, errkind.New(errkind.Unavailable, "cannot track what runs: this machine has neither systemd with cgroup v2, nor a v1 freezer, nor a cgroup v2 hierarchy that can be written")
}

// tracker keeps a nil pointer from becoming a Tracker that is not nil.
func tracker[T Tracker](t T, err error) (Tracker, error) {
	if err != nil {
		return nil, err
	}
	return t, nil
}
