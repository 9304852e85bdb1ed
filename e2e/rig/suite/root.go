package suite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bootstrapScript is debootstrap's script for all suites; the host's debootstrap
// may be older than the suite and have none by its name.
const bootstrapScript = "/usr/share/debootstrap/scripts/sid"

// installScript installs packages ($@) in a root ($ROOT) over the host's network
// and settings of apt, and runs a script ($SETUP) in it. No service is started.
const installScript = `set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=1777 lull-root "$ROOT/tmp"
for file in /etc/resolv.conf /etc/hosts; do
	test -e "$ROOT$file" || : > "$ROOT$file"
	mount --bind "$(readlink -f $file)" "$ROOT$file"
done
apt-config dump Acquire > "$ROOT/tmp/apt.conf"
echo 'DPkg::Options { "--force-unsafe-io"; };' >> "$ROOT/tmp/apt.conf"
export APT_CONFIG=/tmp/apt.conf
if test $# != 0; then
	printf '#!/bin/sh\nexit 101\n' > "$ROOT/usr/sbin/policy-rc.d"
	chmod 0755 "$ROOT/usr/sbin/policy-rc.d"
	chroot "$ROOT" apt-get -qq update
	chroot "$ROOT" apt-get -qq install --yes --no-install-recommends "$@"
	rm "$ROOT/usr/sbin/policy-rc.d"
fi
chroot "$ROOT" sh -c "$SETUP"
`

// Root returns a directory with a root file system that boots systemd, which has
// a user Tester, and what the set has. It is made if it is missing, which takes a
// minute for the base and some for a desktop.
func Root(ctx context.Context, log Log, s Suite, set Set) (string, error) {
	return Keep(ctx, log, s.name(set, time.Now()), func(dir string) error {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
		defer cancel()
		if set.Name == Base.Name {
			return s.bootstrap(ctx, dir)
		}
		base, err := Root(ctx, log, s, Base)
		if err != nil {
			return err
		}
		if _, err := run(ctx, exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", base, dir)); err != nil {
			return err
		}
		return install(ctx, dir, set.Packages, set.Setup)
	})
}

// name is the root's in the cache.
func (s Suite) name(set Set, now time.Time) string {
	content := []string{strings.Join(basePackages, ","), baseSetup, lastSetup}
	if set.Name != Base.Name {
		content = append(content, strings.Join(set.Packages, ","), set.Setup)
	}
	sum := sha256.Sum256([]byte(strings.Join(content, "\x00")))
	return fmt.Sprintf("root-%s-%s-%s", s.edition(now), set.Name, hex.EncodeToString(sum[:6]))
}

func (s Suite) bootstrap(ctx context.Context, dir string) error {
	mirror, err := s.Mirror(ctx)
	if err != nil {
		return err
	}
	args := []string{"--variant=minbase", "--include=" + strings.Join(basePackages, ","), string(s), dir}
	if mirror != "" {
		args = append(args, mirror, bootstrapScript)
	}
	if _, err := run(ctx, exec.CommandContext(ctx, "debootstrap", args...)); err != nil {
		return fmt.Errorf("debootstrap needs to reach Debian's packages: %w", err)
	}
	return install(ctx, dir, nil, baseSetup)
}

// install adds to a root.
func install(ctx context.Context, dir string, packages []string, setup string) error {
	argv := append([]string{"--mount", "--propagation=private", "--", "sh", "-c", installScript, "sh"}, packages...)
	cmd := exec.CommandContext(ctx, "unshare", argv...)
	cmd.Env = append(os.Environ(), "ROOT="+dir, "SETUP="+setup+"\n"+lastSetup)
	if _, err := run(ctx, cmd); err != nil {
		return err
	}
	// The host's name is none of the root's business, and debootstrap copies it.
	return os.WriteFile(filepath.Join(dir, "etc/hostname"), []byte("lull-test\n"), 0o644)
}
