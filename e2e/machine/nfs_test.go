package machine_test

import (
	"os"
	"strings"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/rig/suite"
)

const remote = "org.lull.remote"

// remoteScript exports a directory by the kernel's server, and has a package in two versions
// with a service.
const remoteScript = `set -eu
systemctl stop lulld
mkdir -p /srv/store /etc/lull
echo '/srv/store 127.0.0.1(rw,sync,no_subtree_check,no_root_squash)' >/etc/exports
systemctl restart nfs-server
exportfs -ra
echo 'schedule: {check: 31d}' >/etc/lull/policy.yaml
for v in 1 2 3; do
	mkdir -p /srv/$v
	printf 'name: ` + remote + `\nversion: "%s"\nsummary: is elsewhere\napps: [{name: app, command: app}]\ndata: {versioned: true}\nservices: [{name: daemon, scope: system, command: daemon}]\n' $v >/srv/$v/lull.yaml
	printf '#!/bin/sh\ntest "$1" = show || exec sleep 100000\necho version %s\n' $v >/srv/$v/app
	printf '#!/bin/sh\ntest -e $LULL_DATA/first || echo $LULL_REVISION >$LULL_DATA/first\nexec sleep 100000\n' >/srv/$v/daemon
	chmod 755 /srv/$v/app /srv/$v/daemon
done
lull repo init /srv/repo
`

// TestStoreOnNFS: the store is on the kernel's NFS server, by protocols 4.2 and 3, with a
// service and its data. A refresh waits for what runs on this machine, and happens when it has
// ended; the doctor names what is worse there.
func TestStoreOnNFS(t *testing.T) {
	require.QEMU(t)
	require.NotShort(t)
	if os.Getenv("LULL_MACHINE") != "all" {
		t.Skip("it takes five minutes, and a root of its own: LULL_MACHINE=all, as in make nightly")
	}
	s := &scene{T: t, machine: rig.StartVM(t, rig.VMOptions{Set: suite.NFS})}
	s.WaitBoot()
	s.sh("%s", remoteScript)
	for _, version := range []string{"4.2", "3"} {
		t.Run(version, func(t *testing.T) {
			s := s.at(t)
			s.sh("lull publish --repo /srv/repo /srv/1; mount -t nfs -o vers=%s 127.0.0.1:/srv/store /var/lib/lull; systemctl start lulld", version)
			s.sh("lull repo add local /srv/repo; lull install %s", remote)
			if said := s.machine.Run("lull", "doctor").Text(); !strings.Contains(said, "warn  vacancy") || !strings.Contains(said, "network file system") {
				t.Errorf("the doctor says\n%s", said)
			}
			s.serves("1")
			s.follow(rig.LoginArgv(nil, "lull", "run", remote)...)
			s.sh(`timeout 60 sh -c 'until lull status --json %s | grep -q "\"pid\""; do sleep 0.2; done'`, remote)
			s.sh("lull publish --repo /srv/repo /srv/2")
			if said := s.sh("lull refresh --no-wait %s", remote); !strings.Contains(said, remote+" waits for") {
				t.Errorf("it does not wait: %s", said)
			}
			end := s.follow("lull", "refresh", "--wait", remote)
			s.sh("pkill -x -u %s sleep", rig.Tester)
			s.until("it is refreshed", end, remote+" is refreshed from 1 to 2")
			s.serves("2")
			s.sh("lull publish --repo /srv/repo /srv/3; lull refresh %s; lull gc; lull verify", remote)
			s.serves("3")
			s.sh("systemctl kill --signal=KILL lulld; systemctl start lulld")
			s.serves("3")
			s.sh("lull remove --purge %s; lull repo remove local; lull gc; systemctl stop lulld", remote)
			if left := s.sh("find /var/lib/lull -name '.nfs*'; ls /var/lib/lull/packages"); left != "" {
				t.Errorf("this is left: %s", left)
			}
			s.sh("umount /var/lib/lull; rm -rf /srv/store/* /srv/repo /srv/repo.keys; lull repo init /srv/repo")
		})
	}
}

// serves checks which version there is, and that its service has the data of the first one.
func (s *scene) serves(version string) {
	s.Helper()
	if got := s.sh("lull run %s show", remote); got != "version "+version {
		s.Errorf("it prints %q, want version %s", got, version)
	}
	if got := s.sh("systemctl is-active lull-%s-daemon.service; cat /var/lib/lull/data/%[1]s/[0-9]*/first | sort -u", remote); got != "active\n1" {
		s.Errorf("of the service of version %s: %q, want %q", version, got, "active\n1")
	}
}
