package packages_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// held publishes and installs a package in the container and has clients open it.
const held = `set -e
dpkg --install ` + where + `/1.deb
mkdir -p /srv/v1/bin
printf 'name: org.lull.held\nversion: "1"\nsummary: is held\napps: [{name: app, command: bin/app}]\n' >/srv/v1/lull.yaml
printf '#!/bin/sh\n' >/srv/v1/bin/app
chmod 755 /srv/v1/bin/app
lull repo init /srv/repo
lull publish --repo /srv/repo /srv/v1
lull repo add local /srv/repo
lull install org.lull.held
systemd-run --quiet --unit=holder1 sh -c 'sleep infinity | lull open org.lull.held'
systemd-run --quiet --unit=holder2 ` + where + `/holder unix:path=/run/dbus/system_bus_socket org.lull.held 1000
`

// leases is the number of leases of these clients.
const leases = "1001"

// TestLeasesOutliveAnUpgrade: in the sandbox of the real unit, 1,001 leases of two clients
// stay while dpkg upgrades lull and while the agent is killed, also if a collection is the
// first request afterwards.
func TestLeasesOutliveAnUpgrade(t *testing.T) {
	require.Container(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"1", "2"} {
		if err := os.Rename(rig.Repacked(t, "deb", n+".0.0"), filepath.Join(dir, n+".deb")); err != nil {
			t.Fatal(err)
		}
	}
	rig.GoBuild(t, "./e2e/lease/holder", filepath.Join(dir, "holder"), nil)
	c := rig.BootContainer(t, rig.ContainerOptions{Set: suite.RPM, ReadOnly: []string{dir + ":" + where}})
	must := func(script string) string {
		t.Helper()
		r := c.Service(patience, nil, "sh", "-c", script)
		if r.Code != 0 {
			t.Fatalf("got %v, want exit status 0", r)
		}
		return r.Stdout
	}
	until := func(what, script, want string) {
		t.Helper()
		var got string
		for end := time.Now().Add(patience); time.Now().Before(end); {
			if got = strings.TrimSpace(must(script)); got == want {
				return
			}
		}
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
	const open = `busctl get-property org.lull.Agent1 /org/lull/Agent1 org.lull.Agent1.Space Open | cut -d' ' -f2`
	const trees = `lull gc >/dev/null && ls /var/lib/lull/packages | wc -l`
	must(held)
	until("all have it open", open, leases)
	must("lull remove org.lull.held")
	for _, step := range []string{
		"dpkg --install " + where + "/2.deb",
		"systemctl kill --kill-whom=main --signal=KILL lulld.service",
		"systemctl stop lulld.service && systemctl start lulld.service",
	} {
		must(step)
		if n := strings.TrimSpace(must(trees)); n != "1" {
			t.Errorf("after %q %s packages are there, want 1", step, n)
		}
		until("after "+step, open, leases)
	}
	must("systemctl stop 'holder*.service'")
	until("all have ended", open, "0")
	until("it is collected", trees, "0")
}
