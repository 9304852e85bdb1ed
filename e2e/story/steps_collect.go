package story

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull/lull/e2e/rig"
)

// The versions after the second: one that follows, and one that is switched in
// beside it.
const (
	V3 = "3.0"
	V4 = "4.0"
)

// stepCollect: unneeded packages are removed, needed ones stay.
func (s *story) stepCollect() {
	s.Step(7, "Garbage collection: what only old revisions needed goes, all else stays")
	extra := s.extras()
	s.keepOne()
	s.publish(V3)
	s.v3 = s.ended(V3, "done").Str("Hash")
	s.Say("policy keeps one revision from now on; nobody was running Notes, so 3.0 came in at once")
	old := minus(union(s.blobs(s.v1), s.blobs(s.v2)), s.blobs(s.v3))
	shared := minus(s.blobs(s.v1), old)
	s.check(len(shared) > 0, "the versions share nothing")

	s.lull(0, "gc", "--dry-run")
	dry := s.MustLull("--json", "gc", "--dry-run")
	for b := range old {
		s.check(strings.Contains(dry.Stdout, `"`+b+`"`), "the plan does not name blob %s, which only old versions need:\n%s", b, dry.Stdout)
		s.check(s.hasBlob(b), "the dry run has taken %s away", b)
	}
	s.lull(0, "gc")
	for b := range old {
		s.check(!s.hasBlob(b), "blob %s, which only old versions needed, is still there", b)
	}
	s.check(!s.hasPackage(s.v1) && !s.hasPackage(s.v2), "the tree of an old version is still there")
	s.allThere("version 3, installed", s.v3)
	s.why(s.v3, "installed")
	for index, hash := range extra {
		s.allThere("a package in "+index, hash)
		s.why(hash, index)
	}
	s.Say("%d blobs that only 1.0 and 2.0 needed are gone; %d that 3.0 shares with them, and the packages in %s, are there",
		len(old), len(shared), strings.Join(slices.Sorted(maps.Keys(extra)), ", "))

	s.Say("now 3.0 runs, and 4.0 is switched in beside it: only the run protects 3.0")
	s.Configure("policy.d/block.yaml", "packages:\n  "+s.name+":\n    mode: side-by-side\n")
	s.reload()
	s.app = s.launch(V3, 3)
	s.publish(V4)
	v4 := s.ended(V4, "done").Str("Hash")
	s.lull(0, "gc")
	s.allThere("version 3, which runs", s.v3)
	s.check(!s.app.Ended(), "the application has ended")
	out := s.why(s.v3, "open")
	s.check(strings.Contains(out, fmt.Sprint(s.app.PID)), "lull why does not name process %d:\n%s", s.app.PID, out)

	holder := s.User.StartLull(nil, "open", s.v3, "--", "sleep", "infinity")
	s.opened("the lease is seen", 2, holder)
	s.end(s.app)
	s.opened("only the lease is left", 1, holder)
	s.lull(0, "gc")
	s.allThere("version 3, which a client holds open", s.v3)
	s.why(s.v3, "open")
	s.Say("the application has ended, but `lull open` holds 3.0: it is all there")
	holder.Stop()
	s.opened("nothing holds it any more", 0, holder)
	s.lull(0, "gc")
	s.check(!s.hasPackage(s.v3) && !s.hasBlob(s.v3), "version 3 is still there although it is not needed")
	s.allThere("version 4, installed", v4)
	s.Say("its last holder has gone, and so has 3.0")
}

// opened waits until version 3 is in the open index as often as that.
func (s *story) opened(what string, times int, holder *rig.Proc) {
	s.Helper()
	s.Until(what, limit, func() (bool, string) {
		open := fmt.Sprint(s.api.Property("", "Space.Open"))
		return strings.Count(open, s.v3) == times, open + holder.Log()
	})
}

// keepOne makes policy keep only the current revision.
func (s *story) keepOne() {
	s.Configure("policy.d/keep.yaml", "defaults: {keep-revisions: 1}\n")
	s.reload()
}

// extras puts a package into each of the indices that others than lull fill, and
// returns their hashes by index: base and cache by the file that a system image
// brings, retained over the bus as the system updater does.
func (s *story) extras() map[string]string {
	s.Helper()
	extra := map[string]string{}
	put := func(index string) string {
		name := "org.lull.kept-by-" + index
		dir := s.Path(name)
		write(s, filepath.Join(dir, "lull.yaml"), "name: "+name+"\nversion: \"1\"\nsummary: something to keep\n")
		write(s, filepath.Join(dir, "content"), "kept by "+index+"\n")
		s.lull(0, "publish", "--repo", s.Repo, dir)
		s.lull(0, "install", name)
		o, ok := s.api.Package(name)
		s.check(ok, "%s is not installed", name)
		extra[index] = o.Str("Hash")
		return o.Str("Hash")
	}
	for _, index := range []string{"base", "cache", "retained"} {
		put(index)
	}
	s.Configure("system.yaml", "base: ["+extra["base"]+"]\ncache: ["+extra["cache"]+"]\n")
	s.reload()
	if err := s.api.Call("Retained.Set", []string{extra["retained"]}).Err; err != nil {
		s.Fatalf("cannot set the retained index: %v", err)
	}
	for index := range extra {
		s.lull(0, "remove", "org.lull.kept-by-"+index)
	}
	return extra
}

// allThere checks that every blob of a package, and its tree, is there.
func (s *story) allThere(what, hash string) {
	s.Helper()
	s.check(s.hasPackage(hash), "the tree of %s (%s) is gone", what, hash)
	for b := range s.blobs(hash) {
		s.check(s.hasBlob(b), "blob %s of %s is gone", b, what)
	}
}

// why checks that `lull why` explains what is kept by an index.
func (s *story) why(hash, index string) string {
	s.Helper()
	r := s.lull(0, "why", hash)
	s.check(strings.Contains(r.Stdout, index), "lull why %s: want %q in\n%s", hash, index, r.Stdout)
	return r.Stdout
}

func union(a, b map[string]bool) map[string]bool {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

func minus(a, b map[string]bool) map[string]bool {
	m := map[string]bool{}
	for k := range a {
		if !b[k] {
			m[k] = true
		}
	}
	return m
}

func write(tb rig.TB, path, text string) {
	tb.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
}
