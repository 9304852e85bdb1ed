package converter

import (
	"fmt"
	"runtime/debug"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// The bounds of the process (setrlimit(2)).
const (
	maxMemory    = 6 << 30 // of addresses; the runtime reserves many of them and uses few
	memoryTarget = 512 << 20
	garbage      = 800  // percent; the decompressors leave much of it beside few MiB in use
	maxSeconds   = 1800 // of processor time
	maxFiles     = 256
)

// confine drops the rights of the process. Landlock (landlock(7)) denies all paths and
// connections if the kernel supports it. The limits hold on all kernels.
func confine() error {
	debug.SetMemoryLimit(memoryTarget)
	debug.SetGCPercent(garbage)
	for _, l := range []struct {
		resource int
		most     uint64
	}{
		{unix.RLIMIT_AS, maxMemory}, {unix.RLIMIT_CPU, maxSeconds}, {unix.RLIMIT_NOFILE, maxFiles},
		{unix.RLIMIT_FSIZE, 0}, {unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.most, Max: l.most}); err != nil {
			return fmt.Errorf("cannot confine the conversion: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot confine the conversion: %w", err)
	}
	if err := landlock.V8.BestEffort().Restrict(); err != nil {
		return fmt.Errorf("cannot confine the conversion: %w", err)
	}
	return nil
}
