package agentclient

import (
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	bus "github.com/lull/lull/dbus"
	"github.com/lull/lull/dbus/bustest"
	"github.com/lull/lull/userd/notify"
)

func TestFollow(t *testing.T) {
	address := bustest.Start(t)
	r := run(t, address)
	r.Do(notify.Follow{Instance: "firefox", Yes: true}) // no agent to ask
	if p := wait[notify.Progress](r); p != (notify.Progress{Instance: "firefox", Percent: -1}) {
		t.Errorf("got %+v, want package %v", p, (notify.Progress{Instance: "firefox", Percent: -1}))
	}
	r.Do(notify.Follow{Instance: "firefox"})

	a := newAgent(t, address)
	wait[notify.AgentUp](r)
	pkg := bus.ExportPackage(bus.PackageProperties{Instance: "firefox", Title: "Firefox", DesktopEntry: "firefox", Icon: "/icon.png", Refresh: bus.RefreshPath("7")})
	refresh := bus.ExportRefresh(nil, bus.RefreshProperties{ID: "7", Step: "copy"})
	other := bus.ExportRefresh(nil, bus.RefreshProperties{ID: "8", Step: "copy"})
	for path, e := range map[dbus.ObjectPath]bus.Interface{bus.PackagePath("firefox"): pkg, bus.RefreshPath("7"): refresh, bus.RefreshPath("8"): other} {
		if err := a.server.Export(path, e); err != nil {
			t.Fatal(err)
		}
	}
	r.Do(notify.Follow{Instance: "firefox", Yes: true})
	want := notify.Progress{Instance: "firefox", Name: "Firefox", DesktopEntry: "firefox", Icon: "/icon.png", Percent: 35}
	if p := wait[notify.Progress](r); p != want {
		t.Errorf("%+v, want %v", p, want)
	}
	other.Update(func(p *bus.RefreshProperties) { p.Step = "health" })
	refresh.Update(func(p *bus.RefreshProperties) { p.Step = "start-services" })
	want.Percent = 65
	if p := wait[notify.Progress](r); p != want {
		t.Errorf("%+v, want %v", p, want)
	}
	// The package has another refresh by now.
	pkg.Update(func(p *bus.PackageProperties) { p.Refresh = bus.RefreshPath("8") })
	other.Update(func(p *bus.RefreshProperties) { p.Step = "uninhibit" })
	want.Percent = 95
	if p := wait[notify.Progress](r); p != want {
		t.Errorf("%+v, want %v", p, want)
	}
	r.Do(notify.Follow{Instance: "firefox"})
	r.Do(notify.Follow{Instance: "gone", Yes: true}) // that is not installed
	if p := wait[notify.Progress](r); p != (notify.Progress{Instance: "gone", Percent: -1}) {
		t.Errorf("got %+v, want package %v", p, (notify.Progress{Instance: "gone", Percent: -1}))
	}
	other.Update(func(p *bus.RefreshProperties) { p.Step = "finish" })
	a.send(bus.HelperShuttingDown{Names: []string{"Firefox"}, Left: 2_000_000})
	if e := wait[notify.ShuttingDown](r); len(e.Names) != 1 || e.Left != 2*time.Second {
		t.Errorf("got %+v, want 1 names and left %v", e, 2*time.Second)
	}
}
