package packages_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

// distribution is a package that the .rpm depends on, in place of those of a
// distribution. As systemd's there it has triggers for unit files; they write down what
// they get, and whether the agent is enabled by then.
const distribution = `Name: distribution
Version: 1
Release: 1
Summary: What the package depends on
License: Apache-2.0
BuildArch: noarch
Provides: dbus, util-linux, /bin/sh
%description
Triggers.
%transfiletriggerin -- /usr/lib/systemd/system
echo "after an installation: $(grep lulld), $(systemctl is-enabled lulld.service)" >>/triggers
%transfiletriggerun -- /usr/lib/systemd/system
echo "before a removal: $(grep lulld), $(systemctl is-enabled lulld.service)" >>/triggers
%transfiletriggerpostun -- /usr/lib/systemd/system
echo "after a removal" >>/triggers
%files
`

// offline installs, upgrades and removes the .rpm ($PACKAGES/1.rpm, 2.rpm) in a root that
// is not booted, as programs do that make images. $ROOTFS is the root, which stays
// as it is.
const offline = `set -e
cd "$DIR"
mkdir new
mount -t tmpfs -o mode=0755 lull-rpm new
mkdir new/upper new/work new/root
mount -t overlay -o "lowerdir=$ROOTFS,upperdir=new/upper,workdir=new/work" lull-rpm new/root
mount -t proc proc new/root/proc
rpmbuild -bb --quiet --define "_topdir $PWD/new/build" --define "_rpmdir $PWD" --define '_rpmfilename distribution.rpm' distribution.spec
rpm() { command rpm --root "$PWD/new/root" --dbpath /var/lib/rpm "$@"; }
rpm --initdb

step() {
	echo "== $1"
	shift
	"$@"
	cat new/root/triggers
	: >new/root/triggers
	(cd new/root && find etc -lname '*lull*' | sort)
	rpm --verify --nodeps lull || true
}
rpm --install distribution.rpm
: >new/root/triggers
step install rpm --install "$PACKAGES/1.rpm"
echo '# mine' >>new/root/etc/profile.d/lull.sh
step upgrade rpm --upgrade "$PACKAGES/2.rpm"
chroot new/root systemctl --quiet disable lull-boot.service
step 'upgrade what an administrator has disabled' rpm --reinstall "$PACKAGES/2.rpm"
rpm --erase lull
echo '== removed'
cat new/root/triggers
(cd new/root && find etc -lname '*lull*')
`

// offlineResult is what each step has triggered, the links of enabled units, and the files
// that are not as installed.
const offlineResult = `== install
after an installation: /usr/lib/systemd/system/lulld.service, enabled
etc/systemd/system/dbus-org.lull.Agent1.service
etc/systemd/system/multi-user.target.wants/lull-boot.service
etc/systemd/system/multi-user.target.wants/lull-system-commit.service
etc/systemd/system/multi-user.target.wants/lulld.service
etc/systemd/user/default.target.wants/lull-userd.path
etc/systemd/user/default.target.wants/lull-userd.service
etc/systemd/user/graphical-session.target.wants/lull-userd.service
== upgrade
before a removal: /usr/lib/systemd/system/lulld.service, enabled
after an installation: /usr/lib/systemd/system/lulld.service, enabled
after a removal
etc/systemd/system/dbus-org.lull.Agent1.service
etc/systemd/system/multi-user.target.wants/lull-boot.service
etc/systemd/system/multi-user.target.wants/lull-system-commit.service
etc/systemd/system/multi-user.target.wants/lulld.service
etc/systemd/user/default.target.wants/lull-userd.path
etc/systemd/user/default.target.wants/lull-userd.service
etc/systemd/user/graphical-session.target.wants/lull-userd.service
S.5....T.  c /etc/profile.d/lull.sh
== upgrade what an administrator has disabled
before a removal: /usr/lib/systemd/system/lulld.service, enabled
after an installation: /usr/lib/systemd/system/lulld.service, enabled
after a removal
etc/systemd/system/dbus-org.lull.Agent1.service
etc/systemd/system/multi-user.target.wants/lull-system-commit.service
etc/systemd/system/multi-user.target.wants/lulld.service
etc/systemd/user/default.target.wants/lull-userd.path
etc/systemd/user/default.target.wants/lull-userd.service
etc/systemd/user/graphical-session.target.wants/lull-userd.service
S.5....T.  c /etc/profile.d/lull.sh
== removed
before a removal: /usr/lib/systemd/system/lulld.service, enabled
after a removal
`

// inARoot has the .rpm installed, upgraded and removed by rpm --root, its dependencies checked
// and a distribution's file triggers run. Units are enabled by the installation alone, and
// no link to one is left. The packages are in a directory.
func inARoot(t *testing.T, packages string) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "distribution.spec"), []byte(distribution), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "sh", "-c", offline)
	cmd.Env = append(os.Environ(), "PACKAGES="+packages, "DIR="+dir, "ROOTFS="+rig.Rootfs(t, suite.Default(), suite.Base), "HOME="+dir, "LC_ALL=C.UTF-8")
	var said strings.Builder // Debian's rpm warns of itself
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("got %v\n%s%s\nwant no error", err, out, said.String())
	}
	if got := string(out); got != offlineResult {
		t.Errorf("got\n%s\nwant\n%s\nstandard error: %s", got, offlineResult, said.String())
	}
}
