package shutdown_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
)

const tree = "/opt/tree"

// powerScript installs lull and applications whose health hooks wait at a gate, if there
// is one and a version before, and gives the user a desktop whose menu of a notice chooses the
// line that is in /tmp/choice.
const powerScript = `set -e
cp -a ` + tree + `/. /
mkdir -p /var/log/journal /etc/lull
systemctl daemon-reload
systemctl enable lulld lull-boot
systemd-tmpfiles --create
systemctl restart systemd-journald
journalctl --flush
busctl call org.freedesktop.DBus / org.freedesktop.DBus ReloadConfig
echo 'schedule: {check: 0}' >/etc/lull/policy.yaml
lull repo init /srv/repo
for v in 1 2; do
	for app in %[1]s; do
		mkdir -p /srv/$app/$v
		cd /srv/$app/$v
		printf 'name: %%s\nversion: "%%s"\nsummary: is checked\napps: [{name: app, command: app}]\ndata: {versioned: true}\n' $app $v >lull.yaml
		test $v = 1 || echo 'hooks: {health: health}' >>lull.yaml
		printf '#!/bin/sh\necho version %%s\n' $v >app
		printf '#!/bin/sh\ntest ! -p /run/gate || read answer </run/gate\n' >health
		chmod 755 app health
		test $v = 2 || lull publish --repo /srv/repo .
	done
done
printf '#!/bin/sh\nexec grep -m1 -F -f /tmp/choice\n' >/usr/local/bin/menu
chmod 755 /usr/local/bin/menu
printf '[global]\ndmenu = /usr/local/bin/menu\n' >/etc/dunstrc
for unit in display.service:'Xvfb :7 -nolisten tcp' notices.service:'dunst -conf /etc/dunstrc'; do
	printf '[Service]\nEnvironment=DISPLAY=:7\nRestart=on-failure\nRestartSec=1s\nExecStart=/usr/bin/%%s\n[Install]\nWantedBy=default.target\n' "${unit#*:}" >/etc/systemd/user/${unit%%%%:*}
done
systemctl --global enable display notices lull-userd
lull repo add local /srv/repo
lull install %[1]s
`

// TestPowerOff: a machine with the real logind, whose InhibitDelayMaxSec is its default, is
// switched off by root in a critical section that may take longer. The user is asked, and
// each answer has its effect: the section ends first, or is left to the next boot at once;
// without an answer logind waits until its time is over. In each case the next boot has the
// new version before a user may log in.
func TestPowerOff(t *testing.T) {
	require.Container(t)
	require.NotShort(t)
	keep, err := os.MkdirTemp("", "lull-keep-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(keep) })
	m := &machine{t: t, options: rig.ContainerOptions{ReadOnly: []string{rig.Installed(t, "") + ":" + tree}, Keep: keep}}
	m.boot()
	m.sh(powerScript, strings.Join([]string{name + "1", name + "2", name + "3"}, " "))
	m.off()
	for i, c := range []struct {
		what   string
		answer string // the button that is pressed
		ends   bool   // whether the section ends by itself
		order  []string
		never  string
	}{
		{"at the next start", "At the next start", false, []string{announced, "a user leaves refreshes to the next start", goingDown}, timedOut},
		{"finish now", "Finish now", true, []string{announced, "a hook has run instance=" + name + "2", goingDown}, timedOut},
		{"no answer", "", false, []string{announced, timedOut, goingDown}, "refresh of " + name + "3: undone"},
	} {
		name := fmt.Sprint(name, i+1)
		t.Run(c.what, func(t *testing.T) {
			m.t = t
			m.boot()
			if got := m.sh("busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager InhibitDelayMaxUSec"); got != "t 5000000" {
				t.Errorf("logind waits %s, want t 5000000", got)
			}
			m.sh("timeout 60 sh -c 'until busctl --machine=%s@ --user status org.freedesktop.Notifications >/dev/null 2>&1; do sleep 0.1; done'", rig.Tester)
			m.sh("mkfifo /run/gate; lull publish --repo /srv/repo /srv/%s/2; echo '%s' >/tmp/choice", name, c.answer)
			m.sh("systemd-run --quiet --unit=refresh lull refresh %s; timeout 60 sh -c 'until lull status %[1]s | grep -q \"checking\"; do sleep 0.1; done'", name)
			if list := m.sh("systemd-inhibit --list --no-pager"); !strings.Contains(list, "block-weak") || strings.Count(list, "Refreshing "+name) != 2 {
				t.Errorf("in the section: want 2 locks of %q, one block-weak, got\n%s", "Refreshing "+name, list)
			}
			if c.answer != "" { // begun before, because logind waits for five seconds only
				then := "true"
				if c.ends {
					then = "echo >/run/gate"
				}
				m.sh(`systemd-run --quiet --collect --unit=answer bash -c 'until test "$(%[1]s dunstctl count displayed)" = 1; do sleep 0.05; done; %[1]s dunstctl context; %[2]s'`, user, then)
			}
			m.sh("systemctl poweroff")
			m.off()
			m.boot()
			m.inOrder("-1", c.order...)
			if list := m.journal("-1"); strings.Contains(list, c.never) {
				t.Errorf("the journal has %q, want it without:\n%s", c.never, list)
			}
			if c.ends { // beside logind, which may be faster
				m.inOrder("-1", announced, "a hook has run instance="+name, "refresh of "+name+": done")
			} else {
				m.inOrder("0", "refresh of "+name+": done", "Finished systemd-user-sessions.service")
			}
			if got := m.sh("lull run %s", name); got != "version 2" {
				t.Errorf("the next boot has %q, want version 2", got)
			}
			if left := m.sh("ls /run/lull/runctl; systemd-inhibit --list --no-pager --no-legend"); strings.Contains(left, ".inhibited") || strings.Contains(left, "lull ") {
				t.Errorf("this is left: %s", left)
			}
			m.off()
		})
	}
}

const (
	announced = "a shutdown is announced or given up"
	goingDown = "System is powering down."
	timedOut  = "inhibitor timeout is reached"

	user = "runuser -u " + rig.Tester + " -- env DISPLAY=:7 XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus "
)

// machine is a container that keeps its changes from boot to boot.
type machine struct {
	t       *testing.T
	options rig.ContainerOptions
	c       *rig.Container
}

func (m *machine) boot() {
	m.t.Helper()
	m.c = rig.BootContainer(m.t, m.options)
}

// off waits until it has gone off.
func (m *machine) off() {
	m.t.Helper()
	m.c.Run("sh", "-c", "systemctl is-system-running | grep -q stopping || systemctl poweroff")
	m.c.AwaitOff(2 * time.Minute)
}

func (m *machine) sh(format string, args ...any) string {
	m.t.Helper()
	r := m.c.Run("bash", "-c", fmt.Sprintf(format, args...))
	if r.Code != 0 {
		m.t.Fatalf("%v\n%s", r, m.journal("0"))
	}
	return strings.TrimSpace(r.Stdout)
}

// journal returns what is relevant of a boot, as numbered by journalctl.
func (m *machine) journal(boot string) string {
	m.t.Helper()
	return m.c.Run("journalctl", "-b", boot, "--no-pager", "-o", "short-monotonic", "-u", "lulld", "-u", "lull-boot", "-u", "systemd-logind", "-u", "systemd-user-sessions").Stdout
}

// inOrder checks that a boot's journal has texts, one after the other.
func (m *machine) inOrder(boot string, texts ...string) {
	m.t.Helper()
	list := m.journal(boot)
	rest := list
	for _, text := range texts {
		_, after, ok := strings.Cut(rest, text)
		if !ok {
			m.t.Fatalf("the journal does not have %q, in this order: %q\n%s", text, texts, list)
		}
		rest = after
	}
}
