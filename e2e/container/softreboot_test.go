package container_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

// softScript installs lull and an application, has root and the ordinary user run it,
// root in a unit that survives, and has its refresh wait.
const softScript = `set -e
cp -a ` + treeDir + `/. /
systemctl daemon-reload
systemctl enable lulld
systemd-tmpfiles --create lull.conf
busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig
mkdir -p /etc/lull /root/1 /root/2
echo 'schedule: {check: 0}' >/etc/lull/policy.yaml
for v in 1 2; do
	printf 'name: %[1]s\nversion: "%%s"\nsummary: is rebooted\napps: [{name: app, command: app}]\n' $v >/root/$v/lull.yaml
	printf '#!/bin/sh\nexec sleep 100000\n' >/root/$v/app
	chmod 755 /root/$v/app
done
lull repo init /srv/repo
lull publish --repo /srv/repo /root/1
lull repo add local /srv/repo
lull install %[1]s
printf '[Unit]\nSurviveFinalKillSignal=yes\nIgnoreOnIsolate=yes\nDefaultDependencies=no\n[Service]\nExecStart=/var/lib/lull/exports/bin/%[1]s\n' >/etc/systemd/system/kept.service
systemctl daemon-reload
systemctl start kept user@$(id -u %[2]s)
systemd-run --machine=%[2]s@ --user --quiet --collect --unit=gone /var/lib/lull/exports/bin/%[1]s
until test "$(lull status --json %[1]s | grep -c '"pid"')" -ge 2; do sleep 0.1; done
lull publish --repo /srv/repo /root/2
lull refresh %[1]s || test $? = 75
`

// TestSoftReboot: over a soft reboot /run stays, with markers and tethers, and so do the
// processes of units that survive. These are waited for afterwards, and what is gone is
// not.
func TestSoftReboot(t *testing.T) {
	require.Container(t)
	require.NotShort(t)
	c := rig.Boot(t, true, rig.Installed(t, "")+":"+treeDir)
	run := func(format string, args ...any) string {
		t.Helper()
		r := c.Run("bash", "-c", fmt.Sprintf(format, args...))
		if r.Code != 0 {
			t.Fatalf("%v\n%s", r, c.Run("journalctl", "-b", "-n", "80", "--no-pager").Stdout)
		}
		return strings.TrimSpace(r.Stdout)
	}
	const app = "org.lull.soft"
	run(softScript, app, rig.Tester)
	kept := run("systemctl show --value -p MainPID kept")
	if waits := run("lull pending"); !strings.Contains(waits, "PID "+kept+" ") || strings.Count(waits, "(sleep)") != 2 {
		t.Errorf("before the soft reboot it waits for %s, want 2 processes sleep, one of them with PID %s", waits, kept)
	}
	if r, err := c.Try(time.Minute, "systemctl", "soft-reboot"); err == nil && r.Code != 0 { // it may be ended with all others
		t.Fatalf("soft reboot: got %v; want exit status 0", r)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) { // there is no event for it
		r, err := c.Try(5*time.Second, "systemctl", "show", "--value", "-p", "SoftRebootsCount")
		if err == nil && strings.TrimSpace(r.Stdout) == "1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the soft reboot has not ended: got %v, %v, want a count of 1", r, err)
		}
	}
	run("systemctl is-system-running --wait")
	if now := run("systemctl show --value -p MainPID kept"); now != kept {
		t.Fatalf("the process that was to survive was %s and is %s; want %v", kept, now, kept)
	}
	run("timeout 60 bash -c 'until lull pending | grep -q \"PID %s \"; do sleep 0.1; done'", kept)
	if waits := run("lull pending"); strings.Count(waits, "(sleep)") != 1 {
		t.Errorf("after the soft reboot it waits for %s, want 1 process sleep", waits)
	}
	if version := run("lull status %s", app); !strings.Contains(version, "1, revision 1") {
		t.Errorf("it was refreshed beneath the process that survived: got %s, want %q in the version", version, "1, revision 1")
	}
	run("systemctl stop kept")
	run("timeout 60 bash -c 'until lull status %s | grep -q \"2, revision 2\"; do sleep 0.1; done'", app)
	if left := run("ls /run/lull/runctl"); strings.Contains(left, ".running") || strings.Contains(left, ".inhibited") {
		t.Errorf("markers are left: %s", left)
	}
}
