package repair

import (
	"context"
	"log/slog"

	"github.com/lull/lull/agent/lib/runctl"
	"github.com/lull/lull/agent/refresh"
)

// Markers removes markers that no refresh and no launch has made.
type Markers struct {
	Runctl *runctl.Dir
	Engine *refresh.Engine
	Log    *slog.Logger
	// Released is called when a program has closed a tether of an instance.
	Released func(instance string)
}

// Follow removes the markers that are made by hand as soon as they appear, and those from
// before the agent's start, until ctx ends.
func (k *Markers) Follow(ctx context.Context) {
	w, err := k.Runctl.Watch()
	if err != nil {
		k.Log.Warn("markers that are made by hand are removed at the start only", "error", err)
		k.removeAll(map[string]bool{})
		return
	}
	defer w.Close()
	busy := map[string]bool{} // with a launch under way when they were checked
	k.removeAll(busy)
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events():
			switch {
			case !ok:
				return
			case e.Kind == runctl.LookAtAll:
				k.removeAll(busy)
			case e.Kind == runctl.TetherReleased:
				k.Released(e.Instance)
			case e.Kind == runctl.Inhibition, e.Kind == runctl.RunningMade, e.Kind == runctl.LockReleased && busy[e.Instance]:
				k.remove(e.Instance, busy)
			}
		}
	}
}

func (k *Markers) removeAll(busy map[string]bool) {
	names, err := k.Engine.Marked()
	if err != nil {
		k.Log.Error("cannot list the markers", "error", err)
	}
	for _, name := range names {
		k.remove(name, busy)
	}
}

func (k *Markers) remove(name string, busy map[string]bool) {
	done, err := k.Engine.RemoveStrayMarkers(name)
	if err != nil {
		k.Log.Error("cannot remove a marker", "instance", name, "error", err)
	}
	if delete(busy, name); !done && err == nil {
		busy[name] = true
	}
}
