package settings

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/lib/errkind"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLastGood: broken files change nothing, neither in a running agent nor at its next start.
func TestLastGood(t *testing.T) {
	dir, root, log := t.TempDir(), t.TempDir(), slog.New(slog.DiscardHandler)
	hash := digest.Of([]byte("x")).String()
	files := Dir(dir)
	write(t, files.PolicyFile(), "defaults: {keep-revisions: 7}\n")
	write(t, files.SystemFile(), "base: ["+hash+"]\n")
	s := Open(dir, root, log)
	if at, err := s.Refused(); err != nil || at.IsZero() {
		t.Fatalf("good files: got %v (%v), want the time of their reading and no error", at, err)
	}
	check := func(t *testing.T, s *Settings) {
		t.Helper()
		if n := s.Policy().For("x").KeepRevisions; n != 7 {
			t.Errorf("%d revisions are kept, want 7", n)
		}
		if sys, known := s.System(); !known || len(sys.Base) != 1 || sys.Base[0].String() != hash {
			t.Errorf("the system is %v (known: %v), want %s", sys.Base, known, hash)
		}
		if _, err := s.Refused(); !errkind.Is(err, errkind.BadPolicy) {
			t.Errorf("the error is %v, want one of kind BadPolicy", err)
		}
	}
	for _, text := range []string{"defaults: {keep-revisions: many}\n", "\x00", "defaults:\n x\n y: z\n"} {
		t.Run(text, func(t *testing.T) {
			write(t, files.PolicyFile(), text)
			write(t, files.SystemFile(), text)
			if p, sys := s.Reload(); p || sys {
				t.Errorf("taken: policy %v, system %v, want neither", p, sys)
			}
			check(t, s)
			check(t, Open(dir, root, log))
		})
	}
	t.Run("each by itself", func(t *testing.T) {
		write(t, files.PolicyFile(), "defaults: {keep-revisions: 9}\n")
		if p, sys := s.Reload(); !p || sys || s.Policy().For("x").KeepRevisions != 9 {
			t.Errorf("taken: policy %v, system %v, want the policy alone", p, sys)
		}
	})
	t.Run("nothing from before", func(t *testing.T) {
		write(t, files.PolicyFile(), "x")
		if err := os.Remove(filepath.Join(root, lastGoodFile)); err != nil {
			t.Fatal(err)
		}
		s := Open(dir, root, log)
		if p := s.Policy(); p.For("x").AutoRefresh || p.GC.AfterRefresh {
			t.Errorf("the policy is %+v, want a cautious one", p.For("x"))
		}
		if sys, known := s.System(); known {
			t.Errorf("the system is %v, want unknown", sys)
		}
		for _, f := range []string{files.PolicyFile(), files.SystemFile()} {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		p, sys := s.Reload()
		if _, known := s.System(); !p || !sys || !known {
			t.Errorf("without files: policy %v, system %v, known %v, want all", p, sys, known)
		}
	})
}
