package badinput_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lull/lull/agent/lib/digest"
	"github.com/lull/lull/agent/store"
	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// TestBlobs spoils the store in every way that a disk, a crash or a hand may, in a
// plain file, a program and the manifest at once. Verify finds and names each
// and changes nothing; with --repair they are fetched, and the application
// runs.
func TestBlobs(t *testing.T) {
	all := set(t, rig.Options{})
	pkg, err := filepath.EvalSymlinks(filepath.Join(all.path("current", app)))
	all.no(err)
	hash, err := digest.Parse(filepath.Base(pkg))
	all.no(err)
	blobs := map[string]store.Key{"meta": {Digest: hash}}
	for what, name := range map[string]string{"plain file": "share/doc/notes/news.txt", "program": "bin/notes"} {
		b, err := os.ReadFile(filepath.Join(pkg, name))
		all.no(err)
		blobs[what] = store.Key{Digest: digest.Of(b), Exec: what == "program"}
	}
	const content = "has other content than its name promises"
	for _, c := range []struct {
		name, problem string
		damage        func(s *scene, path string)
	}{
		{"a bit flips", content, func(s *scene, path string) {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			s.no(err)
			defer f.Close()
			b := make([]byte, 1)
			_, err = f.ReadAt(b, 3)
			s.no(err)
			b[0] ^= 4
			_, err = f.WriteAt(b, 3)
			s.no(err)
		}},
		{"it is cut off", content, func(s *scene, path string) {
			st, err := os.Stat(path)
			s.no(err)
			s.no(os.Truncate(path, st.Size()-1))
		}},
		{"it is emptied", content, func(s *scene, path string) { s.no(os.Truncate(path, 0)) }},
		{"it has grown", content, func(s *scene, path string) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			s.no(err)
			defer f.Close()
			_, err = f.WriteString("more")
			s.no(err)
		}},
		{"it is deleted", "is missing", func(s *scene, path string) { s.no(os.Remove(path)) }},
		{"all may write it", "has mode 0666 instead of", func(s *scene, path string) { s.no(os.Chmod(path, 0o666)) }},
		{"nobody may read it", "has mode 0000 instead of", func(s *scene, path string) { s.no(os.Chmod(path, 0)) }},
		{"it is set-user-id", "has mode 4755 instead of", func(s *scene, path string) { s.no(os.Chmod(path, 0o755|os.ModeSetuid)) }},
		{"it is somebody's", "belongs to user 65534 instead of 0", func(s *scene, path string) { s.no(os.Chown(path, 65534, -1)) }},
		{"a link lies there", "is no regular file", func(s *scene, path string) { s.replace(path, "/etc/passwd") }},
		{"a folder lies there", "is no regular file", func(s *scene, path string) {
			s.no(os.Remove(path))
			s.no(os.Mkdir(path, 0o755))
			s.write(filepath.Join(path, "mine"), "mine")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *all
			s.t = t
			before := map[string]string{}
			for _, key := range blobs {
				path := s.path("blobs", key.String()[:2], key.String())
				if _, err := os.Lstat(path); err != nil {
					t.Fatalf("the test looks for blobs in the wrong place: %v", err)
				}
				c.damage(&s, path)
				before[path] = tally(&s, path)
			}
			r := s.Lull("verify")
			if r.Code != 1 || !strings.Contains(r.Stderr, "hint: `lull verify --repair`") {
				t.Errorf("verify: got %v, want exit status 1 and %q in the error output", r, "hint: `lull verify --repair`")
			}
			for what, key := range blobs {
				problem := c.problem
				if what == "meta" && problem == "is missing" {
					problem = "has lost its meta"
				}
				if !slices.ContainsFunc(strings.Split(r.Stdout, "\n"), func(line string) bool {
					return strings.HasPrefix(line, "broken ") && strings.Contains(line, key.String()) && strings.Contains(line, problem)
				}) {
					t.Errorf("verify does not say of the %s that it %s: %v", what, problem, r)
				}
			}
			for path, was := range before {
				if now := tally(&s, path); now != was {
					t.Errorf("verify has changed %s from %s to %s; want %v", path, was, now, was)
				}
			}
			// A blob with a wrong mode or owner alone needs no repository.
			whole := strings.HasPrefix(c.problem, "has mode") || strings.HasPrefix(c.problem, "belongs to")
			if whole {
				s.no(os.Rename(s.Repo, s.Repo+".away"))
			}
			r = s.Lull("verify", "--repair")
			if whole {
				s.no(os.Rename(s.Repo+".away", s.Repo))
			}
			if r.Code != 0 || strings.Count(r.Stdout, "repaired ") < len(blobs) || strings.Contains(r.Stdout, "broken") {
				t.Errorf("verify --repair: got %v; want exit status 0, at least %d lines with \"repaired\" and none with \"broken\"", r, len(blobs))
			}
			s.MustLull("verify")
			s.runs(sample.V2)
		})
	}
	all.whole()
}

// tally is what a name of the store is, for comparison.
func tally(s *scene, path string) string {
	st, err := os.Lstat(path)
	if os.IsNotExist(err) {
		return "nothing"
	}
	s.no(err)
	return fmt.Sprint(st.Mode(), st.Size(), st.ModTime())
}
