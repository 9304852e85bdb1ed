package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Log is called before slow work; *testing.T's Logf is one.
type Log func(format string, args ...any)

// Keep returns the directory NAME in the cache. If it is missing, make fills a
// new one, which gets its name when it is complete. Processes that want the same
// one wait for each other.
func Keep(ctx context.Context, log Log, name string, make func(dir string) error) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot keep %s: %w", name, err)
	}
	dir := filepath.Join(cache, "lull", name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("cannot keep %s: %w", name, err)
	}
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fmt.Errorf("cannot keep %s: %w", name, err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", fmt.Errorf("cannot keep %s: %w", name, err)
	}
	log("making %s, once", dir)
	if err := make(partial); err != nil {
		os.RemoveAll(partial)
		return "", fmt.Errorf("cannot make %s: %w", name, err)
	}
	if err := os.Rename(partial, dir); err != nil {
		return "", fmt.Errorf("cannot keep %s: %w", name, err)
	}
	return dir, ctx.Err()
}
