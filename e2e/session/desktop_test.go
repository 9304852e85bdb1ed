package session_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// back is a package of two programs without a menu entry: one starts at log-in, the other by
// its name on the session bus.
const back, bells = "org.lull.back", "org.lull.back.Bells"

// backScript installs lull, and the package in three versions, of which the last has a health
// hook that waits at a gate. What the programs write when they start and end is in
// /run/marks.log. The menu of a notice chooses the line that is in /tmp/choice.
const backScript = `set -e
cp -a /opt/tree/. /
mkdir -p /etc/lull
systemctl daemon-reload
systemctl enable --now lulld
systemd-tmpfiles --create lull.conf
busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig
systemctl --global enable lull-userd
echo 'schedule: {check: 0}' >/etc/lull/policy.yaml
lull policy reload
mkfifo -m 666 /run/marks
systemd-run --quiet --unit=marks bash -c 'exec 3<>/run/marks; exec cat <&3 >/run/marks.log'
for v in 1 2 3; do
	mkdir -p /srv/$v
	cd /srv/$v
	cp /opt/marks/marks .
	echo $v >version
	printf '[Desktop Entry]\nType=Application\nName=Marks\nExec=marks\n' >%[1]s.desktop
	printf '[D-BUS Service]\nName=%[2]s\nExec=bells\n' >%[2]s.service
	printf '#!/bin/sh\nread answer </run/gate\n' >health
	chmod 755 health
	printf '%%s\n' 'name: %[1]s' "version: \"$v\"" 'title: Backstage' 'summary: runs in the background' 'apps:' \
		'- {name: marks, command: [marks], autostart: %[1]s.desktop}' \
		'- {name: bells, command: [marks, --bus, %[2]s], dbus-name: %[2]s, dbus-service: %[2]s.service}' >lull.yaml
	test $v != 3 || echo 'hooks: {health: health}' >>lull.yaml
done
lull repo init /srv/repo
lull publish --repo /srv/repo /srv/1
lull repo add local /srv/repo
lull install %[1]s
printf '#!/bin/sh\nexec grep -m1 -F -f /tmp/choice\n' >/usr/local/bin/menu
chmod 755 /usr/local/bin/menu
printf '[global]\ndmenu = /usr/local/bin/menu\n[urgency_low]\ntimeout = 0\n[urgency_normal]\ntimeout = 0\n' >/etc/dunstrc
systemctl restart user@$(id -u %[3]s)
systemd-run --quiet --unit=desktop --uid=%[3]s --property=PAMName=login --setenv=XDG_SESSION_TYPE=x11 --setenv=XDG_SESSION_CLASS=user \
	--working-directory=/home/%[3]s bash -lc '
export DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus XDG_CURRENT_DESKTOP=XFCE DISPLAY=:7
Xvfb :7 -nolisten tcp -screen 0 1024x768x24 &
until xdotool getdisplaygeometry >/dev/null 2>&1; do sleep 0.1; done
dbus-update-activation-environment --systemd DISPLAY XDG_CURRENT_DESKTOP
dunst -conf /etc/dunstrc &
xfce4-session &
wait'
`

// TestXfce: programs that start at log-in, and by their names on the bus, in a real session of
// Xfce. A refresh waits for them; its notice offers to log out and opens Xfce's dialog. When the
// screen is locked and policy allows it, both are restarted in the new version. In the critical
// section both wait like any launch.
func TestXfce(t *testing.T) {
	require.Container(t)
	require.NotShort(t)
	marks := t.TempDir()
	rig.GoBuild(t, "./e2e/desktops/marks", filepath.Join(marks, "marks"), nil)
	c := rig.BootContainer(t, rig.ContainerOptions{Set: suite.Xfce, ReadOnly: []string{rig.Installed(t, "") + ":/opt/tree", marks + ":/opt/marks"}})
	sh := func(format string, args ...any) string {
		t.Helper()
		r := c.Run("bash", "-c", fmt.Sprintf(format, args...))
		if r.Code != 0 {
			t.Fatalf("%v\n%s", r, c.Run("sh", "-c", "journalctl -b -n 60 --no-pager; cat /run/marks.log").Stdout)
		}
		return strings.TrimSpace(r.Stdout)
	}
	user := func(format string, args ...any) string {
		t.Helper()
		return sh("runuser -u %s -- env DISPLAY=:7 XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus bash -c '%s'", rig.Tester, fmt.Sprintf(format, args...))
	}
	until := func(condition string, args ...any) {
		t.Helper()
		sh("timeout 60 bash -c 'until "+condition+"; do sleep 0.1; done'", args...)
	}
	started := func(version, n int) {
		t.Helper()
		until(`test "$(grep -c "^start %d " /run/marks.log)" = %d`, version, n)
	}
	const ring = "busctl --user call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus StartServiceByName su " + bells + " 0"

	sh(backScript, back, bells, rig.Tester)
	started(1, 1) // by Xfce, at log-in
	user(ring)
	started(1, 2)

	sh("echo Log out >/tmp/choice; lull publish --repo /srv/repo /srv/2; lull refresh --no-wait %s", back)
	if list := sh("lull pending"); strings.Count(list, "(marks)") != 2 {
		t.Errorf("the refresh waits for the processes below, want 2 of marks:\n%s", list)
	}
	user(`timeout 60 bash -c "until test \$(dunstctl count displayed) = 1; do sleep 0.1; done"; dunstctl context`)
	const dialog = "xdotool search --onlyvisible --class xfce4-session"
	user(`timeout 60 bash -c "until test -n \"\$(%s 2>/dev/null)\"; do sleep 0.1; done"`, dialog)
	user(`timeout 60 bash -c "while test -n \"\$(%s 2>/dev/null)\"; do xdotool key Escape; sleep 0.1; done"`, dialog)
	if log := sh("cat /run/marks.log"); strings.Contains(log, "end") {
		t.Errorf("an application has ended, want none to before the user has agreed to log out:\n%s", log)
	}

	sh(`printf 'schedule: {check: 0}\ndefaults: {restart-background: true}\n' >/etc/lull/policy.yaml; lull policy reload`)
	user(`id=$(loginctl show-user %s --property=Display --value)
path=$(busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager GetSession s $id | cut -d\" -f2)
busctl call org.freedesktop.login1 $path org.freedesktop.login1.Session SetLockedHint b true`, rig.Tester)
	started(2, 2)
	if log := sh("cat /run/marks.log"); strings.Count(log, "end 1 ") != 2 {
		t.Errorf("%d applications of version 1 have ended, want 2:\n%s", strings.Count(log, "end 1 "), log)
	}
	user("busctl --user status %s >/dev/null", bells)

	sh("mkfifo /run/gate; lull publish --repo /srv/repo /srv/3; kill $(sed -n 's/^start 2 //p' /run/marks.log)")
	until(`test "$(grep -c "^end 2 " /run/marks.log)" = 2`)
	sh("systemd-run --quiet --unit=refresh lull refresh --wait %s", back)
	until(`lull status %s | grep -q checking`, back)
	sh("systemctl --user --machine=%s@ daemon-reload; systemctl --user --machine=%[1]s@ restart --no-block app-%s@autostart.service", rig.Tester, back)
	sh("systemd-run --quiet --collect --user --machine=%s@ %s", rig.Tester, ring)
	until(`test "$(ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c "/lull-run$")" = 2`)
	if log := sh("cat /run/marks.log"); strings.Count(log, "start ") != 4 {
		t.Errorf("in the critical section there were %d starts, want the 4 before it:\n%s", strings.Count(log, "start "), log)
	}
	sh("echo >/run/gate")
	started(3, 2)
	sh("systemctl stop desktop")
}
