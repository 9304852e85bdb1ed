package derive

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/convert"
	"github.com/lull/lull/agent/convert/unpack"
	"github.com/lull/lull/agent/lib/manifest"
)

// launch derives from a Debian package with these files. Those in bin, libexec and sbin are
// programs.
func launch(t *testing.T, files map[string]string) (manifest.Launch, string) {
	t.Helper()
	return launchAs(t, Options{File: "thing_1_all.deb"}, files)
}

func launchAs(t *testing.T, o Options, files map[string]string) (manifest.Launch, string) {
	t.Helper()
	tree := unpack.NewTree(convert.NewWriter(io.Discard), unpack.DefaultLimits)
	tree.Control = map[string]string{"Package": "thing", "Version": "1"}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		text, mode := files[p], 0o644
		if strings.Contains(p, "bin/") || strings.Contains(p, "libexec/") {
			mode = 0o755
		}
		if err := tree.File(p, fs.FileMode(mode), int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	tree.Finish()
	l, err := Launch(tree, o)
	if err != nil {
		t.Fatal(err)
	}
	return l, strings.Join(tree.Remarks(), "\n")
}

// TestUnattended: nothing is derived that a user has to confirm.
func TestUnattended(t *testing.T) {
	l, remarks := launchAs(t, Options{File: "thing_1_all.deb", Unattended: true}, map[string]string{
		"usr/bin/thing": "x",
		"usr/share/applications/org.x.Thing.desktop":    desktopFile + "thing\n",
		"usr/share/applications/org.x.Bus.desktop":      desktopFile + "gapplication launch org.x.Thing\n",
		"usr/share/dbus-1/services/org.x.Thing.service": service("org.x.Thing", "/usr/bin/thing"),
		"etc/xdg/autostart/thing.desktop":               desktopFile + "thing\n",
		"lib/systemd/system/thing.service":              "[Service]\nExecStart=/usr/bin/thing\n[Install]\nWantedBy=multi-user.target\n",
	})
	if a := l.Apps[0]; len(l.Apps) != 1 || a.Desktop == "" || a.DBusName != "" || a.Autostart != "" || len(l.Services) != 0 {
		t.Errorf("got apps %+v and services %+v, want one app with its desktop file alone and no service", l.Apps, l.Services)
	}
	if want := `the bus name "org.x.Thing" has to be confirmed`; !strings.Contains(remarks, want) {
		t.Errorf("the remarks are %s; want %q in the remarks", remarks, want)
	}
}

const desktopFile = "[Desktop Entry]\nType=Application\nName=Thing\nExec="

func service(name, program string) string {
	return "[D-BUS Service]\nName=" + name + "\nExec=" + program + "\n"
}

// TestSession: bus names, autostart files, further menu entries and the programs of actions, as
// GNOME's and KDE's packages have them.
func TestSession(t *testing.T) {
	const share = "usr/share/"
	l, remarks := launch(t, map[string]string{
		"usr/bin/thing":                                      "x",
		"usr/libexec/thing-search":                           "x",
		"usr/libexec/thing-daemon":                           "x",
		share + "applications/org.x.Thing.desktop":           desktopFile + "gapplication launch org.x.Thing %U\nActions=d;\n\n[Desktop Action d]\nName=d\nExec=/usr/libexec/thing-daemon\n",
		share + "applications/thing-pdf.desktop":             desktopFile + "thing %U\nNoDisplay=true\nMimeType=application/pdf;\n",
		share + "dbus-1/services/org.x.Archive.service":      service("org.x.Archive", "/usr/bin/thing --archive"),
		share + "dbus-1/services/org.x.Thing.service":        service("org.x.Thing", "/usr/bin/thing --service"),
		share + "dbus-1/services/org.x.Thing.Search.service": service("org.x.Thing.Search", "/usr/libexec/thing-search"),
		share + "dbus-1/services/wrong.service":              service("org.x.Wrong", "/usr/bin/thing"),
		share + "dbus-1/services/org.x.Off.service":          service("org.x.Off", "/bin/false"),
		share + "dbus-1/services/org.x.Broken.service":       "[D-BUS Service]\nName=org.x.Broken\n",
		"etc/xdg/autostart/thing-watch.desktop":              desktopFile + "thing --watch\n",
		"etc/xdg/autostart/thing-more.desktop":               desktopFile + "thing --more\n",
		"etc/xdg/autostart/other.desktop":                    desktopFile + "other\n",
		"usr/lib/systemd/user/org.x.Thing.service":           "[Service]\nType=dbus\nBusName=org.x.Thing\nExecStart=/usr/bin/thing\n",
	})
	var got []string
	for _, a := range l.Apps {
		got = append(got, strings.Join([]string{a.Name, a.Command[0], a.Desktop, a.Autostart, a.DBusName, a.DBusService}, " "))
	}
	want := []string{
		"thing usr/bin/thing usr/share/applications/org.x.Thing.desktop etc/xdg/autostart/thing-more.desktop org.x.Thing usr/share/dbus-1/services/org.x.Thing.service",
		"thing-daemon usr/libexec/thing-daemon    ",
		"org.x.Archive usr/bin/thing  etc/xdg/autostart/thing-watch.desktop org.x.Archive usr/share/dbus-1/services/org.x.Archive.service",
		"thing-search usr/libexec/thing-search   org.x.Thing.Search usr/share/dbus-1/services/org.x.Thing.Search.service",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the apps are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if l.Name != "org.x.Thing" || l.DefaultApp() != "thing" || len(l.Services) != 0 {
		t.Errorf("got package %s, default app %s and services %v; want org.x.Thing, thing and none", l.Name, l.DefaultApp(), l.Services)
	}
	wantRemarks := `etc/xdg/autostart/other.desktop: this autostart file is left out: line 4: Exec=other: "other" is not in the package
usr/share/dbus-1/services/org.x.Broken.service: this bus name is left out: it has no Exec
usr/share/dbus-1/services/org.x.Off.service: this bus name is left out: line 3: Exec=/bin/false: "/bin/false" is not in the package
usr/share/dbus-1/services/wrong.service: this bus name is left out: its Name is "org.x.Wrong"`
	if remarks != wantRemarks {
		t.Errorf("the remarks are\n%s\nwant\n%s", remarks, wantRemarks)
	}
}

// TestUnits: a unit becomes a service with the same command, or is named with the reason.
func TestUnits(t *testing.T) {
	const install = "\n[Install]\nWantedBy=multi-user.target\n"
	for text, want := range map[string]string{
		"ExecStart=/usr/sbin/thing --run": `{thing  [usr/sbin/thing --run]     0s }`,
		"ExecStart=\nType=notify\nExecStart=/usr/sbin/thing \\\n --run\nUser=daemon\nKillSignal=SIGINT\nTimeoutStopSec=1min 30s": `{thing  [usr/sbin/thing --run]  notify SIGINT 1m30s daemon}`,
		"ExecStart=/usr/sbin/thing\nUser=root\nTimeoutStopSec=5":                                                                 `{thing  [usr/sbin/thing]    5s }`,
		"ExecStart=/usr/sbin/thing $ARGS":                                                                                        "its ExecStart has quotes, variables or specifiers",
		"ExecStart=/usr/sbin/thing\nEnvironmentFile=/etc/x":                                                                      "it has the key EnvironmentFile",
		"Type=forking\nExecStart=/usr/sbin/thing":                                                                                `its Type is "forking"`,
		"ExecStart=/usr/sbin/thing\nExecStart=/usr/sbin/thing":                                                                   "it has 2 commands",
		"ExecStart=/usr/bin/other":                                                                                               `its program "/usr/bin/other" is not in the package`,
		"ExecStart=-/usr/sbin/thing":                                                                                             `its program "-/usr/sbin/thing" is not in the package`,
		"ExecStart=/usr/sbin/thing\nTimeoutStopSec=infinity":                                                                     `its TimeoutStopSec is "infinity"`,
		"ExecStart=/usr/sbin/thing\nUser=%i":                                                                                     `its User is "%i"`,
		"ExecStart=/usr/sbin/thing\nKillSignal=9":                                                                                `its KillSignal is "9"`,
	} {
		l, remarks := launch(t, map[string]string{"usr/sbin/thing": "x", "usr/bin/thing": "x", "lib/systemd/system/thing.service": "# a unit\n[Unit]\nDescription=x\n[Service]\n" + text + install})
		var got string
		if len(l.Services) == 1 {
			s := l.Services[0]
			got = strings.Join([]string{"{" + s.Name, s.Scope, "[" + strings.Join(s.Command, " ") + "]", s.RefreshMode, s.Ready, s.StopSignal, s.StopTimeout.String(), s.User + "}"}, " ")
		}
		if want[0] != '{' {
			want = "lib/systemd/system/thing.service: no service is made of this unit: " + want
			got = remarks
		}
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
	l, remarks := launch(t, map[string]string{"usr/bin/thing": "x",
		"usr/lib/systemd/user/thing.service":    "[Service]\nExecStart=/usr/bin/thing\n[Install]\nWantedBy=default.target\n",
		"usr/lib/systemd/system/thing@.service": "[Service]\nExecStart=/usr/bin/thing" + install,
		"usr/lib/systemd/system/idle.service":   "[Service]\nExecStart=/usr/bin/thing\n"})
	if len(l.Services) != 1 || l.Services[0].Scope != manifest.ScopeUser {
		t.Errorf("the services are %v; want 1 services and scope %v", l.Services, manifest.ScopeUser)
	}
	if !strings.Contains(remarks, "idle.service: no service is made of this unit: it is not started by itself") || !strings.Contains(remarks, `"thing@" cannot be the name`) {
		t.Errorf("the remarks are %s; want %q in the remarks and %q in the remarks", remarks, "idle.service: no service is made of this unit: it is not started by itself", `"thing@" cannot be the name`)
	}
}
