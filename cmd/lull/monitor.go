package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/cmd/lull/output"
	bus "github.com/lull/lull/dbus"
)

func (a *app) monitorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "monitor",
		Short: "Follow live what the agent does",
		Long: `Follows what happens: applications that start and end, refreshes and their
steps, updates of the system, collections, and what becomes of the policy and of
looks into the repositories. Ctrl-C ends it. With --json every line is a document.`,
		Args:              args(0, 0),
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.monitor(cmd.Context()) },
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// eventJSON is a line of `lull monitor --json`.
type eventJSON struct {
	output.Document
	Time     time.Time    `json:"time"`
	Event    string       `json:"event"` // package, refresh, finished, removed; of no instance: policy, check, collected, system
	Instance string       `json:"instance,omitempty"`
	Refresh  *refreshJSON `json:"refresh,omitempty"`
	Package  *packageJSON `json:"package,omitempty"`
	Result   string       `json:"result,omitempty"`
	Error    string       `json:"error,omitempty"`
	text     string
}

// watcher holds the state of all objects, so that it can report changes.
type watcher struct {
	app       *app
	snap      *snapshot
	packages  map[dbus.ObjectPath]*bus.PackageProperties
	refreshes map[dbus.ObjectPath]*bus.RefreshProperties
	said      map[dbus.ObjectPath]string // the last text, so that no text is repeated directly
	manager   bus.ManagerProperties
	space     bus.SpaceProperties
	system    bus.SystemProperties
}

func (a *app) monitor(ctx context.Context) error {
	ag, err := a.dial(ctx)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	sub, err := bus.Subscribe(asking, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return err
	}
	defer sub.Close()
	objects, err := bus.ManagedObjects(asking, ag.conn, bus.AgentName, bus.AgentPath)
	if err != nil {
		return err
	}
	w := &watcher{app: a, snap: &snapshot{}, packages: map[dbus.ObjectPath]*bus.PackageProperties{},
		refreshes: map[dbus.ObjectPath]*bus.RefreshProperties{}, said: map[dbus.ObjectPath]string{}}
	var errs [3]error
	w.manager, errs[0] = ag.manager.Properties(asking)
	w.space, errs[1] = ag.space.Properties(asking)
	w.system, errs[2] = ag.system().Properties(asking)
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	for path, interfaces := range objects {
		if err := w.added(bus.Added{Path: path, Interfaces: interfaces}, true); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is the normal end
		case sig, ok := <-sub.C:
			if !ok {
				return output.Error(errkind.Unavailable, "cannot follow any longer: the agent has left the bus").
					WithHint("see `%s`", a.statusCommand())
			}
			if err := w.signal(sig); err != nil {
				return err
			}
		}
	}
}

func (w *watcher) signal(sig *dbus.Signal) error {
	if c, ok := bus.ParseChanged(sig); ok {
		return w.changed(c)
	}
	if added, ok := bus.ParseAdded(sig); ok {
		return w.added(added, false)
	}
	if r, ok := bus.ParseRemoved(sig); ok {
		p := w.packages[r.Path]
		delete(w.packages, r.Path)
		delete(w.refreshes, r.Path)
		delete(w.said, r.Path)
		if p != nil {
			return w.say(r.Path, eventJSON{Event: "removed", Instance: p.Instance, text: output.T("is removed")})
		}
		return nil
	}
	if f, ok := bus.ParseManagerRefreshFinished(sig); ok {
		text := output.StateText(f.Result)
		if f.Error != "" {
			text += ": " + w.app.Foreign(f.Error)
		}
		return w.say(f.Refresh, eventJSON{Event: "finished", Instance: f.Instance, Result: f.Result, Error: f.Error, text: text})
	}
	return nil
}

// added records a new object. At the start it reports refreshes only. A signal about an
// object that was listed at the start was sent before the list, and is older.
func (w *watcher) added(added bus.Added, start bool) error {
	if w.packages[added.Path] != nil || w.refreshes[added.Path] != nil {
		return nil
	}
	if values, ok := added.Interfaces[bus.PackageInterface]; ok {
		p := &bus.PackageProperties{}
		if err := p.Apply(values); err != nil {
			return err
		}
		w.packages[added.Path] = p
		if !start {
			return w.tellPackage(added.Path, p, output.T("%s is installed", p.Version))
		}
	}
	if values, ok := added.Interfaces[bus.RefreshInterface]; ok {
		r := &bus.RefreshProperties{}
		if err := r.Apply(values); err != nil {
			return err
		}
		w.refreshes[added.Path] = r
		if !start || !output.Over(r.State) {
			return w.tellRefresh(added.Path, r)
		}
	}
	return nil
}

func (w *watcher) changed(c bus.Changed) error {
	if r := w.refreshes[c.Path]; r != nil && c.Interface == bus.RefreshInterface {
		if err := r.Apply(c.Values); err != nil {
			return err
		}
		if output.Over(r.State) {
			return nil // RefreshFinished reports it
		}
		return w.tellRefresh(c.Path, r)
	}
	if c.Path == bus.AgentPath {
		return w.agentChanged(c)
	}
	p := w.packages[c.Path]
	if p == nil || c.Interface != bus.PackageInterface {
		return nil
	}
	old := *p
	if err := p.Apply(c.Values); err != nil {
		return err
	}
	text := ""
	switch {
	case old.Hash != p.Hash:
		text = output.T("%s is current, revision %d", p.Version, p.Revision)
	case !old.Running && p.Running:
		text = output.T("is running")
	case old.Running && !p.Running:
		text = output.T("is closed")
	case old.HeldUntil != p.HeldUntil && held(*p, w.app.Now()):
		text = output.T("is held until %[1]s by %[2]s", output.Day(output.FromBus(p.HeldUntil), w.app.Now()), output.Either(p.HeldBy, "?"))
	case old.HeldUntil != p.HeldUntil:
		text = output.T("is not held any longer")
	}
	if text == "" {
		return nil
	}
	return w.tellPackage(c.Path, p, text)
}

// agentChanged reports changes without an instance.
func (w *watcher) agentChanged(c bus.Changed) error {
	has := func(name string) bool { _, ok := c.Values[name]; return ok }
	switch c.Interface {
	case bus.ManagerInterface:
		before := w.manager
		if err := w.manager.Apply(c.Values); err != nil {
			return err
		}
		if now := w.manager.PolicyError; now != before.PolicyError {
			e := eventJSON{Event: "policy", Error: now, text: output.T("policy: the files are in force again")}
			if now != "" {
				e.text = output.T("policy: refused, the previous one stays in force: %s", w.app.Foreign(now))
			}
			if err := w.say(c.Path, e); err != nil {
				return err
			}
		}
		if now := w.manager.LastCheckError; now != "" && now != before.LastCheckError {
			return w.say(c.Path, eventJSON{Event: "check", Error: now, text: output.T("repositories: %s", w.app.Foreign(now))})
		}
		if has("LastCheck") && w.manager.LastCheck != before.LastCheck {
			return w.say(c.Path, eventJSON{Event: "check", text: output.T("repositories: all were read")})
		}
	case bus.SpaceInterface:
		if !has("LastCollection") {
			return nil
		}
		if err := w.space.Apply(c.Values); err != nil {
			return err
		}
		if n := w.space.LastCollectionBytes; n > 0 {
			return w.say("", eventJSON{Event: "collected", Result: fmt.Sprint(n), text: output.T("collected: %s freed", output.Size(n))})
		}
	case bus.SystemInterface:
		before := w.system
		if err := w.system.Apply(c.Values); err != nil {
			return err
		}
		if now := w.system; now.State != before.State || now.Step != before.Step {
			text := output.T("system: %s", output.StateText(now.State))
			if v := output.Either(now.Staged, output.Either(now.Booted, now.Committed)); v != "" {
				text += " " + v
			}
			if now.Step != "" {
				text += ", " + now.Step
			}
			if now.ErrorText != "" {
				text += ": " + w.app.Foreign(now.ErrorText)
			}
			return w.say(c.Path, eventJSON{Event: "system", Result: now.State, Error: now.ErrorText, text: text})
		}
	}
	return nil
}

func (w *watcher) tellPackage(path dbus.ObjectPath, p *bus.PackageProperties, text string) error {
	j := w.snap.json(*p, w.app.Now())
	return w.say(path, eventJSON{Event: "package", Instance: p.Instance, Package: &j, text: text})
}

func (w *watcher) tellRefresh(path dbus.ObjectPath, r *bus.RefreshProperties) error {
	text := nounOf(r.Kind)
	if r.ToVersion != "" {
		text = output.T("%[1]s to %[2]s", text, r.ToVersion)
	}
	text += ": " + w.app.StepText(*r)
	switch {
	case r.Step == "fetch" && r.State != "waiting" && r.BytesTotal > 0:
		text += fmt.Sprintf(" %d%%", min(100, 100*(r.BytesDone/1024)/max(1, r.BytesTotal/1024)))
	case r.State == "waiting" && len(r.Waiting)+len(r.Conditions) > 0:
		text += ": " + waitsForThese(r.Conditions, r.Waiting)
	case r.DownloadBegins != 0:
		text += ": " + output.T("it begins %s", beginsText(r.Instance, r.DownloadBegins, w.app.Now()))
	}
	j := toRefreshJSON(*r)
	return w.say(path, eventJSON{Event: "refresh", Instance: r.Instance, Refresh: &j, text: text})
}

func (w *watcher) say(path dbus.ObjectPath, e eventJSON) error {
	if path != "" && w.said[path] == e.text {
		return nil
	}
	w.said[path] = e.text
	e.Document, e.Time = output.One, w.app.Now()
	if w.app.JSON {
		return w.app.WriteLine(e)
	}
	if e.Instance != "" {
		e.text = e.Instance + "  " + e.text
	}
	return w.app.Say(e.Time.Format(time.TimeOnly) + "  " + e.text)
}
