package rig

import (
	"fmt"
	"os"
	"syscall"
)

// SmallDisk mounts a file system of so many bytes, for the agent's root or
// another directory that will be full. It needs root.
func SmallDisk(tb TB, bytes int64) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "lull-disk-") // whose way users may go
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		tb.Fatalf("cannot make a disk: %v", err)
	}
	tb.Cleanup(func() { os.Remove(dir) })
	if err := syscall.Mount("lull-test", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", bytes)); err != nil {
		tb.Fatalf("cannot mount a disk: %v", err)
	}
	tb.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			tb.Logf("cannot unmount a disk: %v", err)
		}
	})
	return dir
}
