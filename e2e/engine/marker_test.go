package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMarkerIsPutBack: the marker of a critical section is removed, or replaced, by hand,
// and is put back. The section goes on, and no marker is left.
func TestMarkerIsPutBack(t *testing.T) {
	const name = "org.lull.marked"
	s := set(t, "")
	s.publish(app(name, "1", ""), map[string]string{"app": forever})
	env, reached, open := s.gate()
	s.Begin(env, "LULL_FAULT=refresh.copy.before#2:gate,refresh.health.before#2:gate")
	s.MustLull("install", name)
	s.publish(app(name, "2", ""), map[string]string{"app": forever})
	refresh := s.Admin.StartLull(nil, "refresh", name)
	marker := filepath.Join(s.RunDir, "runctl", "lull."+name+".inhibited")
	for _, want := range []string{"refresh-in-progress\n", "refresh-starting\n"} {
		reached()
		for _, spoil := range []func() error{
			func() error { return os.Remove(marker) },
			func() error {
				return errors.Join(os.WriteFile(s.Path("other"), []byte("nonsense\n"), 0o644), os.Rename(s.Path("other"), marker))
			},
			func() error { return os.Truncate(marker, 0) },
			func() error { return os.WriteFile(marker, []byte("refresh-pending\n"), 0o644) },
			func() error { return os.Rename(marker, marker+".away") },
			func() error {
				return errors.Join(os.Symlink("/dev/null", s.Path("link")), os.Rename(s.Path("link"), marker))
			},
			func() error { // a directory takes its place
				dir := s.Path("dir-" + strings.TrimSpace(want))
				return errors.Join(os.MkdirAll(dir, 0o755), unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, marker, unix.RENAME_EXCHANGE))
			},
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			s.UntilFile("the marker is put back", limit, marker, func(text string) (bool, string) { return text == want, text })
		}
		open()
	}
	if code, err := refresh.Wait(t.Context(), limit); err != nil || code != 0 {
		t.Errorf("the refresh ended with %d %v: %s; want no error and code 0", code, err, refresh.Log())
	}
	if _, err := os.Lstat(marker); !os.IsNotExist(err) {
		t.Errorf("the marker is left: %v", err)
	}
}
