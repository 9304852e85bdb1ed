package arm64_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lull/lull/e2e/require"
	"github.com/lull/lull/e2e/rig/suite"
)

// script is run in the root. Its last output is checked.
const script = `set -e
mount -t proc proc /proc
mount -t tmpfs lull-run /run
export LULL_BUS=unix:path=/run/bus NO_COLOR=1
dpkg --install /opt/lull.deb
cat > /run/bus.conf <<'END'
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=/run/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/>
    <allow receive_type="method_call"/> <allow receive_type="method_return"/> <allow receive_type="error"/> <allow receive_type="signal"/>
  </policy>
</busconfig>
END
dbus-daemon --config-file=/run/bus.conf --fork --nopidfile
mkfifo /run/ready
/usr/libexec/lull/lulld --bus=$LULL_BUS --tracker=subtree --ready-fd=3 3>/run/ready >/run/lulld.log 2>&1 &
agent=$!
trap 'kill $agent || true; wait $agent || true; cat /run/lulld.log >&2' EXIT
read -r word < /run/ready
publish() {
	mkdir -p /srv/app-$1/bin
	printf 'name: org.lull.far\nversion: "%s"\nsummary: Runs far away\napps: [{name: far, command: [bin/far]}]\ndata: {versioned: true}\n' $1 > /srv/app-$1/lull.yaml
	printf '#!/bin/sh\necho "version %s on $(uname -m)"\n' $1 > /srv/app-$1/bin/far
	chmod 0755 /srv/app-$1/bin/far
	lull publish --repo /srv/repo /srv/app-$1
}
lull version
lull repo init /srv/repo
publish 1
lull repo add local /srv/repo
lull install org.lull.far
lull run org.lull.far
publish 2
lull refresh --wait org.lull.far
lull run org.lull.far
lull gc
lull verify
lull list
echo all of it
`

// TestUnderEmulation installs the package for arm64, publishes, installs, runs,
// refreshes and collects. LULL_ARM64 names the directory with the package; `make
// arm64` makes it and runs this.
func TestUnderEmulation(t *testing.T) {
	dir := os.Getenv("LULL_ARM64")
	if dir == "" {
		t.Skip("`make arm64` runs this")
	}
	require.Root(t)
	require.Program(t, "qemu-aarch64-static", "debootstrap", "unshare")
	debs, err := filepath.Glob(filepath.Join(dir, "lull_*_arm64.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("the packages for arm64 are %q; want no error and 1 debs", debs)
	}
	rpms, err := filepath.Glob(filepath.Join(dir, "lull-*.aarch64.rpm"))
	if err != nil || len(rpms) != 1 {
		t.Fatalf("the packages for arm64 are %q; want no error and 1 rpms", rpms)
	}
	emulate(t)
	root, err := suite.Foreign(t.Context(), t.Logf, suite.Default(), "arm64")
	if err != nil {
		t.Fatal(err)
	}
	// The root is only read. Groups are made below one of the test's own.
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation=private", "--", "sh", "-c", `set -e
		mount -t tmpfs lull-arm64 /mnt
		mkdir /mnt/upper /mnt/work /mnt/root
		mount -t overlay -o lowerdir="$1",upperdir=/mnt/upper,workdir=/mnt/work lull-arm64 /mnt/root
		cp "$2" /mnt/root/opt/lull.deb
		mount --rbind /sys /mnt/root/sys
		mount --bind /dev /mnt/root/dev
		exec chroot /mnt/root /bin/sh -c "$3"`, "sh", root, debs[0], script)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"version 1 on aarch64\n", "version 2 on aarch64\n", "all of it\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("it does not say %q", want)
		}
	}
}

// emulate lets the kernel run programs of arm64, for the whole machine, until the
// end of the test. See the kernel's binfmt-misc.rst; the numbers are the beginning of
// an ELF file for that machine.
func emulate(t *testing.T) {
	t.Helper()
	require.Lock(t, "binfmt")
	const name = "lull-test-aarch64"
	dir := t.TempDir()
	if err := syscall.Mount("binfmt_misc", dir, "binfmt_misc", 0, ""); err != nil {
		require.Missing(t, "needs binfmt_misc: %v", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("-1"), 0o200); err != nil {
			t.Error(err)
		}
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	program, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatal(err)
	}
	rule := fmt.Sprintf(`:%s:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:%s:F`, name, program)
	if err := os.WriteFile(filepath.Join(dir, "register"), []byte(rule), 0o200); err != nil {
		t.Fatal(err)
	}
}
