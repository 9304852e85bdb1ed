package container_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull/lull/agent/lib/runname"
)

// makeFiles makes two versions of a tar archive.
const makeFiles = `
mkdir -p /srv/files/tree/bin
for v in 1 2; do
	printf '#!/bin/sh\necho "tool %%s"\n' $v >/srv/files/tree/bin/tool
	chmod 755 /srv/files/tree/bin/tool
	tar -C /srv/files/tree -czf /srv/files/tool-$v.0.tar.gz .
done
cp /srv/files/tool-1.0.tar.gz /srv/files/endless-1.0.tar.gz`

// makeUnit makes a Debian package with a unit of users' systemd.
const makeUnit = `
mkdir -p /srv/unit/DEBIAN /srv/unit/usr/bin /srv/unit/usr/lib/systemd/user
printf '#!/bin/sh\nexec sleep 100000\n' >/srv/unit/usr/bin/shipped
chmod 755 /srv/unit/usr/bin/shipped
printf '[Unit]\nDescription=Shipped\n[Service]\nExecStart=/usr/bin/shipped\n[Install]\nWantedBy=default.target\n' >/srv/unit/usr/lib/systemd/user/shipped.service
printf 'Package: shipped\nVersion: 1.0\nArchitecture: all\nMaintainer: V <v@example.org>\nDescription: For tests\n' >/srv/unit/DEBIAN/control
dpkg-deb --root-owner-group --build /srv/unit /srv/files/shipped_1.0_all.deb >/dev/null`

// userUnit: a unit of users' systemd in a Debian package is a service of the user's manager, which
// starts it at the installation. It is tracked, and a removal leaves nothing of it.
func userUnit(t *testing.T, user string) {
	t.Helper()
	sh(t, makeUnit)
	sh(t, "%ssystemctl --user start lull-userd.path", user)
	defer try(t, "%ssystemctl --user stop lull-userd.path lull-userd", user)
	sh(t, "lull install --yes /srv/files/shipped_1.0_all.deb")
	unit := runname.ServiceUnit("shipped", "shipped")
	sh(t, "timeout 60 sh -c 'until %[1]ssystemctl --user --quiet is-active %[2]s; do :; done'", user, unit)
	pid := sh(t, "%[1]ssystemctl --user show --property=MainPID --value %[2]s", user, unit)
	if out := sh(t, "tr '\\0' ' ' </proc/%s/cmdline", pid); out != "sleep 100000" {
		t.Errorf("the user's systemd runs %q as %s, want the program of the package", out, unit)
	}
	if out := sh(t, "cat /proc/%s/cgroup", pid); !strings.Contains(out, "user@") {
		t.Errorf("the service is in %s, want it in the user's manager", out)
	}
	if out := sh(t, "lull status shipped"); !strings.Contains(out, "shipped is active") {
		t.Errorf("got %s, want that the service is active", out)
	}
	sh(t, "lull remove --purge shipped")
	if out := sh(t, "%ssystemctl --user list-units --all --no-legend '*shipped*'", user); out != "" {
		t.Errorf("units are left: %s", out)
	}
	if o := try(t, "ls /proc/%s/exe", pid); o.code == 0 {
		t.Errorf("process %s of the service is left", pid)
	}
	// The number of its last revision is remembered, its data are the user's, and gc removes the package.
	if out := sh(t, "rm -r ~tester/.local/share/lull/shipped; find /var/lib/lull /run/lull /run/user/$(id -u tester) ~tester -xdev -name '*shipped*' -not -path '*/local/*' -not -path '/var/lib/lull/revisions/shipped' -not -path '/var/lib/lull/packages/*'"); out != "" {
		t.Errorf("there is left %s", out)
	}
}

const converterPath = "/usr/libexec/lull/lull-convert"

// spies reports whether this program was started in the place of the converter.
func spies() bool { return os.Args[0] == converterPath }

// spy is a converter that reports what it can see, as the error of the conversion. One
// of an endless file does not end.
func spy() {
	if strings.HasPrefix(os.Args[len(os.Args)-1], "endless") {
		time.Sleep(time.Hour)
	}
	var files []string
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		switch {
		case path == "/proc", path == "/sys", path == "/dev":
			return fs.SkipDir
		case path == "/run/systemd/journal": // sockets that it cannot connect to
			return fs.SkipDir
		case err == nil && !d.IsDir():
			files = append(files, path)
		}
		return nil
	})
	fmt.Fprintf(os.Stderr, "files %q %v; ", files, err)
	fmt.Fprintf(os.Stderr, "root %v; ", unix.Getuid() == 0 || unix.Getgid() == 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	err = unix.Capget(&header, &caps[0])
	fmt.Fprintf(os.Stderr, "capabilities %d %v; ", caps[0].Effective|caps[1].Effective|caps[0].Permitted|caps[1].Permitted, err)
	for _, family := range []int{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} {
		if _, err := unix.Socket(family, unix.SOCK_DGRAM, 0); err == nil {
			fmt.Fprintf(os.Stderr, "sockets of family %d; ", family)
		}
	}
	fmt.Fprintf(os.Stderr, "writes %v; ", os.WriteFile("/x", nil, 0o600) == nil || os.Mkdir("/tmp", 0o700) == nil)
	fmt.Fprintf(os.Stderr, "environment %v; ", os.Getenv("NOTIFY_SOCKET")+os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"))
	fmt.Fprintf(os.Stderr, "mounts %v\n", unix.Mount("none", "/", "tmpfs", 0, "") == nil)
	os.Exit(1)
}

// TestFiles: below the sandbox of the real unit, a file is converted by a unit of its own
// without privileges, installed, and refreshed. That unit sees only its program,
// and ends with the caller and with the agent.
func TestFiles(t *testing.T) {
	here(t)
	installed(t)
	try(t, "lull repo remove local") // of a test before
	sh(t, makeFiles)
	if out := sh(t, "lull install /srv/files/tool-1.0.tar.gz && lull run tool"); !strings.Contains(out, "tool 1.0 is installed") || !strings.HasSuffix(out, "tool 1") {
		t.Errorf("got %s, want %q in the output and output that ends with %q", out, "tool 1.0 is installed", "tool 1")
	}
	if out := sh(t, "lull install /srv/files/tool-2.0.tar.gz && lull run tool"); !strings.Contains(out, "from 1.0 to 2.0") || !strings.HasSuffix(out, "tool 2") {
		t.Errorf("got %s, want %q in the output and output that ends with %q", out, "from 1.0 to 2.0", "tool 2")
	}
	if o := try(t, "lull install /etc/passwd"); o.code != 65 || !strings.Contains(o.text, "cannot convert passwd: the format is unknown") {
		t.Errorf("got %+v, want code 65 and %q in the text", o, "cannot convert passwd: the format is unknown")
	}
	// The agent of a user has a repository of its own.
	user := as("tester")
	sh(t, "%[1]ssystemctl --user daemon-reload && %[1]ssystemctl --user start lulld", user)
	userUnit(t, user)
	if out := sh(t, "%[1]slull --user install /srv/files/tool-1.0.tar.gz && %[1]slull --user run tool", user); !strings.HasSuffix(out, "tool 1") {
		t.Errorf("got %s, want output that ends with %q", out, "tool 1")
	}
	sh(t, "test $(stat -c %%a:%%U ~tester/.local/state/lull/local.keys) = 700:tester")
	sh(t, "%[1]slull --user remove --purge tool; %[1]ssystemctl --user stop lulld", user)

	const scratch = `find /var/lib/lull -maxdepth 1 -name '.file-*'`
	if out := sh(t, scratch); out != "" {
		t.Errorf("there is left %s", out)
	}

	sh(t, "mv %[1]s %[1]s.kept; cp /proc/%[2]d/exe %[1]s; chmod 755 %[1]s", converterPath, os.Getpid())
	defer sh(t, "mv %[1]s.kept %[1]s", converterPath)
	want := fmt.Sprintf("cannot convert files [%q] <nil>; root false; capabilities 0 <nil>; writes false; environment ; mounts false", converterPath)
	if o := try(t, "lull install /srv/files/tool-1.0.tar.gz"); o.code != 65 || !strings.Contains(o.text, want) {
		t.Errorf("want %s, got %+v", want, o)
	}

	const endless = "systemd-run --quiet --collect --unit=endless lull install /srv/files/endless-1.0.tar.gz && timeout 60 sh -c 'until systemctl list-units -q \"lull-convert-*\" | grep -q activating; do :; done'"
	const gone = `timeout 60 sh -c 'until [ -z "$(systemctl list-units -q --all "lull-convert-*")" ] && [ -z "$(` + `find /var/lib/lull -maxdepth 1 -name .file-\*` + `)" ]; do :; done'`
	sh(t, endless)
	sh(t, "systemctl stop endless")
	sh(t, gone)
	sh(t, endless)
	sh(t, "systemctl kill --kill-whom=main --signal=KILL lulld")
	sh(t, gone)
	sh(t, "lull remove --purge tool && lull repo remove local")
}
