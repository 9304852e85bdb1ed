package suite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// foreignPackages are what a root of another architecture has beyond Debian's
// minimum. It is not booted.
var foreignPackages = []string{"dbus", "util-linux", "procps"}

// Foreign returns a directory with a root file system of another architecture,
// whose programs the kernel must be able to run (binfmt_misc). It has no systemd as
// process 1, and no user but root.
func Foreign(ctx context.Context, log Log, s Suite, arch string) (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(foreignPackages, ",")))
	name := fmt.Sprintf("root-%s-%s-%s", s.edition(time.Now()), arch, hex.EncodeToString(sum[:6]))
	return Keep(ctx, log, name, func(dir string) error {
		mirror, err := s.Mirror(ctx)
		if err != nil {
			return err
		}
		args := []string{"--arch=" + arch, "--variant=minbase", "--include=" + strings.Join(foreignPackages, ","), string(s), dir}
		if mirror != "" {
			args = append(args, mirror, bootstrapScript)
		}
		if _, err := run(ctx, exec.CommandContext(ctx, "debootstrap", args...)); err != nil {
			return fmt.Errorf("debootstrap needs to reach Debian's packages of %s: %w", arch, err)
		}
		return nil
	})
}
