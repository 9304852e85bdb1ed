package publish_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/agent/repo"

	"github.com/lull/lull/agent/lib/errkind"
	"github.com/lull/lull/agent/repo/publish"
)

// filledRepo makes a repository with two packages, one in two versions, and a copy of it.
func filledRepo(t *testing.T, bins bool) (dir, copied string) {
	t.Helper()
	dir = initRepo(t)
	for _, v := range []string{"1", "2"} {
		_, err := publish.PublishAll(t.Context(), dir, []string{
			source(t, map[string]string{"lull.yaml": "name: a\nversion: \"" + v + "\"\n", "own": "a" + v, "shared": "shared", "large": strings.Repeat("large", 2<<20)}),
			source(t, map[string]string{"lull.yaml": "name: b\nversion: \"1\"\n", "own": "b", "shared": "shared"}),
		}, publish.Options{})
		must(t, err)
	}
	if bins {
		must(t, publish.Resign(t.Context(), dir, publish.ResignOptions{Bins: true}))
	}
	copied = filepath.Join(t.TempDir(), "copy")
	must(t, os.CopyFS(copied, os.DirFS(dir)))
	return dir, copied
}

// needed lists the files that the signatures need.
func neededFiles(t *testing.T, dir string) (list []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		top, _, _ := strings.Cut(rel, "/")
		if err == nil && d.Type().IsRegular() && (top == "blobs" || top == "channels") {
			list = append(list, rel)
		}
		return err
	}))
	return list
}

// TestCheck: each file that is missing, shortened or altered is found, and mended from a copy,
// with and without bins. A damaged copy does no harm.
func TestCheck(t *testing.T) {
	for _, bins := range []bool{false, true} {
		dir, copied := filledRepo(t, bins)
		r, err := publish.Check(t.Context(), dir, publish.CheckOptions{})
		if err != nil || len(r.Faults) > 0 || r.Channels != 2 || r.Packages != 3 || r.Blobs != 8 {
			t.Fatalf("whole: got %+v, %v; want 2 channels, 3 packages, 8 blobs, no faults and no error", r, err)
		}
		unused := r.Unused
		files := neededFiles(t, dir)
		current := map[string]bool{}
		for i, rel := range files {
			path := filepath.Join(dir, rel)
			whole, err := os.ReadFile(path)
			must(t, err)
			for kind, damage := range map[string]func() error{
				"missing": func() error { return os.Remove(path) },
				"short":   func() error { return os.Truncate(path, int64(len(whole)/2)) },
				"altered": func() error {
					altered := slices.Clone(whole)
					altered[len(altered)/2] ^= 1
					return os.WriteFile(path, altered, 0o644)
				},
			} {
				if kind != "missing" && i%3 > 0 {
					continue // a sample
				}
				must(t, damage())
				r, err := publish.Check(t.Context(), dir, publish.CheckOptions{})
				must(t, err)
				if len(r.Faults) == 0 {
					// The former offer of a: no signature needs it.
					if r.Unused > unused {
						t.Errorf("%s %s: got %+v, want a fault or at most %d unused", kind, rel, r, unused)
					}
					must(t, os.WriteFile(path, whole, 0o644))
					continue
				}
				current[rel] = true
				if len(r.Faults) != 1 || r.Faults[0].Path != rel || r.Faults[0].Mended {
					t.Errorf("%s %s: got faults %+v, want it alone, not mended", kind, rel, r.Faults)
				}
				r, err = publish.Check(t.Context(), dir, publish.CheckOptions{From: publish.Directory(copied)})
				if err != nil || len(r.Faults) != 1 || !r.Faults[0].Mended {
					t.Errorf("%s %s, with a copy: got faults %+v, error %v; want one that is mended and no error", kind, rel, r.Faults, err)
				}
				if now, err := os.ReadFile(path); err != nil || string(now) != string(whole) {
					t.Errorf("%s %s was not mended: %v", kind, rel, err)
				}
			}
		}
		if len(current) < 10 {
			t.Errorf("%d files are needed, want at least 10", len(current))
		}
	}
}

// TestCheckMetadata: numbered metadata is mended, too. A file of the copy that is not signed
// is not accepted, and the timestamp is not taken.
func TestCheckMetadata(t *testing.T) {
	dir, copied := filledRepo(t, true)
	all, err := filepath.Glob(dir + "/metadata/*bin-*.json")
	must(t, err)
	for _, rel := range []string{"metadata/4.snapshot.json", "metadata/4.targets.json", "metadata/" + filepath.Base(all[0])} {
		for _, damage := range []func(string) error{os.Remove, func(p string) error { return os.Truncate(p, 50) }} {
			must(t, damage(filepath.Join(dir, rel)))
			if _, err := publish.Check(t.Context(), dir, publish.CheckOptions{}); err == nil {
				t.Errorf("%s: no error", rel)
			}
			r, err := publish.Check(t.Context(), dir, publish.CheckOptions{From: publish.Directory(copied)})
			if err != nil || len(r.Faults) != 1 || !r.Faults[0].Mended || r.Faults[0].Path != rel {
				t.Errorf("%s, with a copy: got faults %+v, error %v; want it alone, mended, and no error", rel, r.Faults, err)
			}
		}
	}
	other := initRepo(t)
	data, err := os.ReadFile(other + "/metadata/1.snapshot.json")
	must(t, err)
	must(t, os.WriteFile(copied+"/metadata/4.snapshot.json", data, 0o644))
	must(t, os.Remove(dir+"/metadata/4.snapshot.json"))
	if _, err := publish.Check(t.Context(), dir, publish.CheckOptions{From: publish.Directory(copied)}); !errkind.Is(err, errkind.Untrusted) {
		t.Errorf("a snapshot of another repository: got %v, want an error of kind %v", err, errkind.Untrusted)
	}
	must(t, os.Remove(dir+"/metadata/timestamp.json"))
	if _, err := publish.Check(t.Context(), dir, publish.CheckOptions{From: publish.Directory(copied)}); !errkind.Is(err, errkind.Invalid) {
		t.Errorf("without a timestamp: %v", err)
	}
}

// TestPruneGrace: a version stays until the grace after its last offer has ended, whatever its
// own age. What is offered stays always, and nothing is removed if that is not known.
func TestPruneGrace(t *testing.T) {
	dir := initRepo(t)
	day := 24 * time.Hour
	begun := time.Now().Add(-100 * day)
	put := func(at time.Duration, version string) {
		t.Helper()
		_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: \"" + version + "\"\n", "own": version, "shared": "shared"}), publish.Options{Common: publish.Common{Now: begun.Add(at)}})
		must(t, err)
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if fi, err := d.Info(); err == nil && time.Since(fi.ModTime()) < time.Minute {
					return os.Chtimes(path, time.Time{}, begun.Add(at))
				}
			}
			return err
		}))
	}
	put(0, "1")
	put(1*day, "2")
	put(80*day, "3")
	put(99*day, "4")
	prune := func(grace time.Duration, dry bool, want string) {
		t.Helper()
		p, err := publish.Prune(t.Context(), dir, publish.PruneOptions{Grace: grace, DryRun: dry})
		must(t, err)
		blobs, err := filepath.Glob(dir + "/blobs/*/*")
		must(t, err)
		if got := fmt.Sprintf("%d removed, %d left", p.Blobs, len(blobs)); got != want {
			t.Errorf("grace %v: %s, want %s", grace, got, want)
		}
	}
	// Each version has a manifest and a file; one is shared. A channel also offers the version
	// before its newest: 1 until day 80, 2 until day 99, and 3 still.
	prune(30*day, false, "0 removed, 9 left")
	prune(10*day, true, "2 removed, 9 left")
	prune(10*day, false, "2 removed, 7 left")
	prune(10*day, false, "0 removed, 7 left")
	prune(day/2, false, "2 removed, 5 left")
	r, err := publish.Check(t.Context(), dir, publish.CheckOptions{})
	if err != nil || len(r.Faults) > 0 || r.Blobs != 5 {
		t.Errorf("after pruning: got %+v, %v; want 5 blobs, no faults and no error", r, err)
	}
	p, err := open(t, dir).Channel(t.Context(), "a", "stable")
	must(t, err)
	must(t, os.Remove(filepath.Join(dir, repo.BlobPath(p.Package))))
	if _, err := publish.Prune(t.Context(), dir, publish.PruneOptions{}); err == nil || !strings.Contains(errkind.HintOf(err), "lull repo check") {
		t.Errorf("with an unknown need: got %v, want an error and %q", err, "lull repo check")
	}
	if blobs, _ := filepath.Glob(dir + "/blobs/*/*"); len(blobs) != 4 {
		t.Errorf("%d blobs are left, want 4", len(blobs))
	}
}

// TestRemove: a channel that is removed is not offered any more. The name is free then, and
// the package can be published again.
func TestRemove(t *testing.T) {
	for _, bins := range []bool{false, true} {
		dir, _ := filledRepo(t, bins)
		_, err := publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: a\nversion: \"3\"\n"}), publish.Options{Channel: "edge"})
		must(t, err)
		listed := func() string {
			all, err := publish.List(t.Context(), dir, publish.Common{})
			must(t, err)
			var text []string
			for _, l := range all {
				text = append(text, l[0].Name+"@"+l[0].Channel+" "+l[0].Version)
			}
			return strings.Join(text, ", ")
		}
		if got := listed(); got != "a@edge 3, a@stable 2, b@stable 1" {
			t.Errorf("listed: %s, want a@edge 3, a@stable 2, b@stable 1", got)
		}
		remove := func(name, channel, version string, all bool) error {
			_, err := publish.Remove(t.Context(), dir, publish.RemoveOptions{ChannelOptions: publish.ChannelOptions{Name: name, Channel: channel, Version: version}, All: all})
			return err
		}
		for want, err := range map[errkind.Kind]error{errkind.Conflict: remove("a", "", "1", false), errkind.Invalid: remove("a b", "", "", true)} {
			if !errkind.Is(err, want) {
				t.Errorf("%s: %v; want an error of kind %v", want, err, want)
			}
		}
		must(t, errors.Join(remove("b", "edge", "", false), remove("c", "", "", true))) // not offered
		must(t, remove("b", "", "", false))
		if got := listed(); got != "a@edge 3, a@stable 2" {
			t.Errorf("without b: %s, want a@edge 3, a@stable 2", got)
		}
		must(t, remove("a", "", "", true))
		c := open(t, dir)
		if list, err := c.Listings(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("Listings: got %v, %v; want nothing offered and no error", list, err)
		}
		_, err = publish.Prune(t.Context(), dir, publish.PruneOptions{})
		must(t, err)
		if left := neededFiles(t, dir); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		_, err = publish.Publish(t.Context(), dir, source(t, map[string]string{"lull.yaml": "name: A\nversion: \"1\"\n"}), publish.Options{})
		must(t, err)
	}
}
