package repositories

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull/lull/agent/repo/publish"
)

// TestFailureIsLoggedOnce: a repository that stays unreadable warns once, and once again
// after it was readable or for another reason.
func TestFailureIsLoggedOnce(t *testing.T) {
	dir, conf := filepath.Join(t.TempDir(), "repo"), t.TempDir()
	if err := publish.Init(t.Context(), dir, publish.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(conf, "mine.root.json"), root, 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(conf, "mine.yaml"), fmt.Appendf(nil, "url: %s\nroot: mine.root.json\n", dir), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	var journal bytes.Buffer
	r := New(Config{Root: t.TempDir(), Dir: conf, Log: slog.New(slog.NewTextHandler(&journal, nil)), Changed: func() {}})
	if err := r.Load(); err != nil {
		t.Fatal(err)
	}
	read := func(fine bool, warnings int) {
		t.Helper()
		journal.Reset()
		for range 3 {
			if _, err := r.Read(t.Context(), "mine", false); (err == nil) != fine {
				t.Fatalf("Read: got error %v, want success %v", err, fine)
			}
		}
		if n := strings.Count(journal.String(), "level=WARN"); n != warnings {
			t.Errorf("%d warnings, want %d:\n%s", n, warnings, journal.String())
		}
	}
	away := dir + ".away"
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	read(true, 0)
	move(dir, away)
	read(false, 1)
	read(false, 0)
	move(away, dir)
	read(true, 0)
	move(dir, away)
	read(false, 1)
}
