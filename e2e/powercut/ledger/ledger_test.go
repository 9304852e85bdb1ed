package ledger

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestLedger: it is whole after every step, and every mixture shows.
func TestLedger(t *testing.T) {
	dir := t.TempDir()
	if s, err := Read(dir); err != nil || s.Ready {
		t.Fatal(s, err)
	}
	if err := Begin(dir); err != nil {
		t.Fatal(err)
	}
	for n := files - 1; n < 3*files+5; n++ {
		s, err := Read(dir)
		if err != nil || s.Step != n || !s.Ready {
			t.Fatalf("after step %d: %+v %v", n, s, err)
		}
		if err := Step(dir, n); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := Seal(dir, s.Step); err != nil {
		t.Fatal(err)
	}
	if s, err = Read(dir); err != nil || s.Sealed != s.Step {
		t.Fatal(s, err)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob(filepath.Join(dir, "ballast", "*"))
	for _, path := range append(paths, more...) {
		good, err := os.ReadFile(path)
		if err != nil || len(good) == 0 {
			continue // a directory, or a mark
		}
		var file int
		older := []byte("older")
		if _, err := fmt.Sscanf(filepath.Base(path), "part-%d", &file); err == nil {
			older = content(file, file)
		}
		for what, bad := range map[string][]byte{
			"older": older, "half": good[:len(good)/2], "zero": make([]byte, len(good)), "empty": {},
		} {
			if filepath.Base(path) == sealed && what == "half" {
				continue // may be a whole number
			}
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if s, err := Read(dir); err == nil {
				t.Errorf("%s of %s does not show: %+v", what, filepath.Base(path), s)
			}
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Step(dir, s.Step); err != nil {
		t.Fatal(err)
	}
	if s, err := Read(dir); err == nil {
		t.Errorf("a step behind the seal does not show: %+v", s)
	}
	if err := Unseal(dir); err != nil {
		t.Fatal(err)
	}
	if s, err := Read(dir); err != nil || s.Sealed != -1 {
		t.Error(s, err)
	}
}
