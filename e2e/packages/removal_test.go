package packages_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// setUp installs an application for the machine and one for a user, whose refresh waits.
const setUp = `set -e
dpkg --install ` + where + `/1.deb
mkdir -p /srv/p/bin && cd /srv/p
printf '#!/bin/sh\necho "hello $1"\ntest "$1" != stay || exec sleep 100000\n' >bin/notes && chmod +x bin/notes
printf '[Desktop Entry]\nType=Application\nName=Notes\nExec=notes\n' >org.example.notes.desktop
version() { printf 'name: org.example.notes\nversion: "%s"\napps: [{name: notes, command: bin/notes, desktop: org.example.notes.desktop, autostart: org.example.notes.desktop}]\n' "$1" >lull.yaml; }
version 1
lull repo init /srv/repo
lull publish --repo /srv/repo .
lull repo add main /srv/repo --trust /srv/repo.keys/root.json
lull install notes
cp /srv/repo.keys/root.json /srv/root.json
systemd-run --uid=` + rig.Tester + ` --property=PAMName=login --wait --pipe --quiet sh -c 'set -e
	systemctl --user start lulld.service
	lull --user repo add main /srv/repo --trust /srv/root.json
	lull --user install notes'
systemd-run --quiet --unit=open /var/lib/lull/exports/bin/notes stay
until lull list --json | grep -q '"running": true'; do :; done
version 2
lull publish --repo /srv/repo .
lull refresh --detach notes || test $? = 75
until lull pending --json | grep -q '"org.example.notes"'; do :; done
`

// nowhere lists menu entries, commands and files of log-ins of lull's applications, also those
// that a log-in finds.
const nowhere = `find / -xdev \( -path /proc -o -path /sys -o -path /srv -o -path '*/lull/packages' -o -path '*/lull/blobs' \) -prune -o \
	\( -name 'org.example.notes*.desktop' -o -path '*/bin/notes' -o -path '*/bin/org.example.notes' \) -print
grep -l lull /etc/xdg/autostart/* /usr/lib/environment.d/* /etc/environment.d/* 2>/dev/null
sh -lc 'echo "$PATH:$XDG_DATA_DIRS:$XDG_CONFIG_DIRS"' | tr : '\n' | grep lull
bash -lc true 2>&1
true`

// TestRemovalLeavesNothingThatLeadsNowhere: after a removal of the package no menu entry, no
// command and no log-in script of lull's is left that leads nowhere, neither the machine's nor
// a user's. When lull is installed again, they are back, also of an application whose refresh
// was waiting.
func TestRemovalLeavesNothingThatLeadsNowhere(t *testing.T) {
	require.Container(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(rig.Repacked(t, "deb", "1.0.0"), filepath.Join(dir, "1.deb")); err != nil {
		t.Fatal(err)
	}
	c := rig.BootContainer(t, rig.ContainerOptions{Set: suite.RPM, ReadOnly: []string{dir + ":" + where}})
	must := func(script string) string {
		t.Helper()
		r := c.Service(patience, nil, "sh", "-c", script)
		if r.Code != 0 {
			t.Fatalf("got %v, want exit status 0", r)
		}
		return r.Stdout
	}
	must(setUp)
	const installed = "/var/lib/lull/exports/share/applications/org.example.notes.desktop"
	before := must(nowhere)
	for _, want := range []string{installed, "/var/lib/lull/exports/etc/xdg/autostart/org.example.notes.desktop", "/home/" + rig.Tester + "/.local/state/lull/exports/bin/notes", "\n/var/lib/lull/exports/bin\n"} {
		if !strings.Contains(before, want) {
			t.Errorf("before the removal %q is not there:\n%s", want, before)
		}
	}
	must("dpkg --remove lull")
	if left := must(nowhere); left != "" {
		t.Errorf("after the removal these are left:\n%s", left)
	}
	if got := must("dpkg --install " + where + "/1.deb >/dev/null; lull list >/dev/null; systemctl is-active open; sh -lc 'notes again'; ls " + installed); got != "active\nhello again\n"+installed+"\n" {
		t.Errorf("lull is installed again: %q, want %v", got, "active\nhello again\n"+installed+"\n")
	}
	must("systemctl stop open; dpkg --purge lull")
	if left := must(nowhere + "; ls -d /etc/profile.d/lull.sh /var/lib/lull 2>/dev/null; true"); left != "" {
		t.Errorf("after the purge these are left:\n%s", left)
	}
}
