package catalog_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m.Run) }

const (
	name  = "org.lull.listed"
	limit = time.Minute
	extra = 300_000 // bytes that version 2 has more
)

func publish(w *rig.World, repository, channel, version string) {
	w.Helper()
	dir := w.Tree("v"+version, map[string]string{
		"lull.yaml": fmt.Sprintf("name: %s\nversion: %q\nsummary: is listed\napps: [{name: app, command: bin/app}]\n", name, version),
		"bin/app":   "#!/bin/sh\nexec sleep 100000\n",
		"big":       strings.Repeat(version, extra),
	})
	w.MustLull("publish", "--repo", repository, "--channel", channel, dir)
}

// fingerprint matches the key of a root of trust.
var fingerprint = regexp.MustCompile(`key of the root of trust \(SHA-256\): [0-9a-f]{64}`)

// sizes match what is shown before a version with extra bytes is fetched.
var sizes = regexp.MustCompile(`(?m)^org.lull.listed: 30[0-9] kB to download, 3[0-9]{2} kB to write$`)

// TestListAndSwitch asks for what exists, for updates with their sizes and for the past,
// and switches the channel; one repository of two is broken all the while.
func TestListAndSwitch(t *testing.T) {
	require.Cgroups(t)
	require.Program(t, "dbus-daemon", "setpriv")
	w := rig.NewScene(t, rig.SceneOptions{Options: rig.Options{Tracker: "poll"}})
	other := w.Path("other")
	shown := fingerprint.FindString(w.MustLull("repo", "init", other).Stdout)
	publish(w.World, w.Repo, "stable", "1")
	w.Begin()
	if got := fingerprint.FindString(w.MustLull("repo", "add", "other", other).Stdout); got == "" || got != shown {
		t.Errorf("lull repo add shows %q, want the %q of lull repo init", got, shown)
	}
	w.MustLull("install", name)
	conn := w.Bus.Connect()
	m := bus.NewManagerProxy(conn, bus.AgentPath)
	ctx := t.Context()
	if err := os.RemoveAll(other); err != nil {
		t.Fatal(err)
	}
	publish(w.World, w.Repo, "stable", "2")
	publish(w.World, w.Repo, "beta", "3")

	trees := func() int { l, _ := filepath.Glob(filepath.Join(w.Store, "packages", "*")); return len(l) }
	before := trees()
	updates, failed, err := m.ListUpdates(ctx, nil, bus.ListUpdatesOptions{Read: true})
	if err != nil || len(failed) != 0 || len(updates) != 1 {
		t.Fatalf("ListUpdates: got updates %+v, failed %+v and error %v; want 1 update, none failed and no error", updates, failed, err)
	}
	if u := updates[0]; u.Instance != name || u.FromVersion != "1" || u.Version != "2" || u.Channel != "stable" || u.Repository != "local" ||
		u.Fetch < extra || u.Fetch > extra+10_000 || u.Write < u.Fetch || u.Size < u.Fetch || u.Withheld != "" || u.Urgency == "" || u.Published == 0 {
		t.Errorf("got the update %+v, want %s from 1 to 2, channel stable of local, %d to %d bytes to fetch, not withheld", u, name, extra, extra+10_000)
	}
	if updates, failed, err = m.ListUpdates(ctx, []string{name, "org.lull.none"}, bus.ListUpdatesOptions{}); err != nil || len(updates) != 1 ||
		updates[0].Version != "2" || len(failed) != 1 || failed[0].Name != "org.lull.none" || failed[0].Error != "org.lull.Error.NotFound" {
		t.Errorf("ListUpdates: got updates %+v, failed %+v and error %v; want version 2, org.lull.none not found, and no error", updates, failed, err)
	}
	available, failed, err := m.ListAvailable(ctx, bus.ListAvailableOptions{Read: true})
	if err != nil || len(available) != 2 || available[0].Channel+available[0].Version != "beta3" || available[1].Channel+available[1].Version != "stable2" ||
		!available[1].Offered || fmt.Sprint(available[1].Installed) != "["+name+"]" || len(available[0].Installed) != 0 {
		t.Errorf("ListAvailable: got %+v, %v; want version 3 of beta, not installed, version 2 of stable, offered and installed as %s, and no error", available, err, name)
	}
	if len(failed) != 1 || failed[0].Name != "other" || failed[0].Error != "org.lull.Error.Unavailable" || failed[0].Text == "" {
		t.Errorf("failed repositories: got %+v, want other alone, with a text and org.lull.Error.Unavailable", failed)
	}
	if trees() != before {
		t.Errorf("ListUpdates and ListAvailable have fetched %d packages, want none", trees()-before)
	}
	if all, err := bus.ManagedObjects(ctx, conn, bus.AgentName, bus.AgentPath); err != nil || all[bus.RefreshPath("2")] != nil {
		t.Errorf("after ListUpdates and ListAvailable: got error %v and the objects %v, want no error and no refresh 2", err, all)
	}

	follow := func(channel, want string) {
		t.Helper()
		if err := m.Switch(ctx, name, bus.SwitchOptions{Channel: channel}); err != nil {
			t.Fatal(err)
		}
		if updates, _, err := m.ListUpdates(ctx, nil, bus.ListUpdatesOptions{}); err != nil || len(updates) != 1 || updates[0].Version != want {
			t.Errorf("ListUpdates on channel %s: got %+v, %v; want version %s alone and no error", channel, updates, err, want)
		}
		r := w.MustLull("refresh", name)
		if channel == "beta" && !sizes.MatchString(r.Stderr) {
			t.Errorf("no sizes before the download: %v", r)
		}
		api, _ := w.Bus.Watch().Package(name)
		if api.Str("Version") != want || api.Str("Channel") != channel {
			t.Errorf("after a refresh: got version %s from channel %s, want %s from %s", api.Str("Version"), api.Str("Channel"), want, channel)
		}
	}
	follow("beta", "3")
	follow("stable", "2") // which is older
	for i := range 20 {   // the reply comes once the properties show it
		channel := []string{"beta", "stable"}[i%2]
		if err := m.Switch(ctx, name, bus.SwitchOptions{Channel: channel}); err != nil {
			t.Fatal(err)
		}
		if got, err := bus.NewPackageProxy(conn, bus.PackagePath(name)).GetChannel(ctx); err != nil || got != channel {
			t.Errorf("after the reply it follows %q, want %q: %v", got, channel, err)
		}
	}
	for _, opt := range []bus.SwitchOptions{{Channel: "none"}, {Repository: "none"}, {Repository: "other"}, {}} {
		err := m.Switch(ctx, name, opt)
		if err == nil {
			t.Errorf("Switch with %+v: got no error, want one", opt)
		}
	}
	if p, _ := w.Bus.Watch().Package(name); p.Str("Channel") != "stable" || p.Str("Repository") != "local" {
		t.Errorf("it follows %s of %s, want stable of local", p.Str("Channel"), p.Str("Repository"))
	}

	past := func() string {
		t.Helper()
		list, err := m.History(ctx, bus.HistoryOptions{Instance: name})
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, r := range list {
			if r.Ended == 0 || r.ID == "" {
				t.Errorf("the history has %+v, want an end and an ID", r)
			}
			s = append(s, fmt.Sprint(r.Kind, " ", r.FromVersion, ">", r.ToVersion, " ", r.Result))
		}
		return strings.Join(s, ", ")
	}
	const want = "install >1 done, refresh 1>3 done, refresh 3>2 done"
	if got := past(); got != want {
		t.Errorf("%s, want %v", got, want)
	}
	w.Agent().Crash()
	w.StartAgent()
	if got := past(); got != want {
		t.Errorf("after a crash: %s, want %v", got, want)
	}
	all, err := bus.ManagedObjects(ctx, conn, bus.AgentName, bus.AgentPath)
	if err != nil || all[bus.RefreshPath("3")] == nil {
		t.Errorf("the result of the last refresh is not there: %v", err)
	}
	// One instance is postponed, one does not exist: each has its own result.
	app := w.User.StartLull(nil, "run", name)
	w.Until("it runs", limit, func() (bool, string) {
		p, _ := w.Bus.Watch().Package(name)
		return fmt.Sprint(p.Props["Running"].Value()) == "true", app.Log()
	})
	publish(w.World, w.Repo, "stable", "4")
	api := w.Bus.Watch()
	each := []string{"org.lull.none", name}
	if _, err := m.RefreshEach(ctx, each, bus.RefreshEachOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Until("it waits", limit, func() (bool, string) {
		o, _ := api.Refresh(name, "4")
		return o.Str("State") == "waiting", fmt.Sprint(o.Props)
	})
	results, err := m.RefreshEach(ctx, each, bus.RefreshEachOptions{})
	if err != nil || len(results) != 2 || results[0].Instance != name || results[0].Refresh == "" || results[0].ErrorName != "org.lull.Error.Busy" ||
		!strings.Contains(results[0].Error, "1 process is running") || results[1].ErrorName != "org.lull.Error.NotFound" || results[1].Refresh != "" {
		t.Errorf("RefreshEach: got %+v, %v; want %s busy with 1 process, with its refresh, the other not found, and no error", results, err, name)
	}
	app.Kill()
	err = m.RestartNow(ctx, name)
	var e dbus.Error
	if !errors.As(err, &e) || e.Name != "org.lull.Error.NotFound" {
		t.Errorf("RestartNow of what does not run: %v", err)
	}
}
