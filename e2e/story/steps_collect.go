package story

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// V3 is the version that is refreshed side by side.
const V3 = "3.0"

// stepCollect: what nobody needs goes, what anybody needs stays.
func (s *story) stepCollect() {
	s.Step(7, "Garbage collection: what only the old revision needed goes, all else stays")
	only2 := minus(s.blobs(s.v2), s.blobs(s.v1))
	extra := s.extras()
	s.keepOne()

	s.lull(0, "gc", "--dry-run")
	dry := s.MustLull("--json", "gc", "--dry-run")
	for b := range only2 {
		s.check(strings.Contains(dry.Stdout, `"`+b+`"`), "the plan does not name blob %s, which only version 2 needs:\n%s", b, dry.Stdout)
		s.check(s.hasBlob(b), "the dry run has taken %s away", b)
	}
	s.lull(0, "gc")
	for b := range only2 {
		s.check(!s.hasBlob(b), "blob %s, which only version 2 needed, is still there", b)
	}
	s.check(!s.hasPackage(s.v2), "the tree of version 2 is still there")
	s.allThere("version 1, installed", s.v1)
	for index, hash := range extra {
		s.allThere("a package in "+index, hash)
		s.why(hash, index)
	}
	s.why(s.v1, "installed")
	s.Say("%d blobs that only 2.0 needed are gone; installed%s is all there", len(only2), names(extra))

	s.Say("now 1.0 runs, and 3.0 is switched in beside it: nothing but the run protects 1.0")
	s.Configure("policy.d/block.yaml", "packages:\n  "+s.name+":\n    mode: side-by-side\n    keep-revisions: 1\n")
	s.reload()
	s.app = s.launch(sample.V1, 1)
	s.publish(V3)
	s.ended(V3, "done")
	_, s.v3 = s.current()
	s.lull(0, "gc")
	s.allThere("version 1, which runs", s.v1)
	s.check(!s.app.Ended(), "the application has ended")
	out := s.why(s.v1, "open")
	s.check(strings.Contains(out, fmt.Sprint(s.app.PID)), "lull why does not name process %d:\n%s", s.app.PID, out)

	holder := s.User.StartLull(nil, "open", s.v1, "--", "sleep", "infinity")
	s.Until("the lease is seen", limit, func() (bool, string) {
		open := fmt.Sprint(s.api.Property("", "Space.Open"))
		return strings.Count(open, s.v1) >= 2, open + holder.Log()
	})
	s.end(s.app)
	s.Until("only the lease is left", limit, func() (bool, string) {
		open := fmt.Sprint(s.api.Property("", "Space.Open"))
		return strings.Count(open, s.v1) == 1, open
	})
	s.lull(0, "gc")
	s.allThere("version 1, which a client holds open", s.v1)
	s.why(s.v1, "open")
	s.Say("it was protected by its run, and then by a client that held it open")
	holder.Stop()
	s.Until("nothing holds it any more", limit, func() (bool, string) {
		open := fmt.Sprint(s.api.Property("", "Space.Open"))
		return !strings.Contains(open, s.v1), open
	})
	s.lull(0, "gc")
	s.check(!s.hasPackage(s.v1) && !s.hasBlob(s.v1), "version 1 is still there although nobody needs it")
	s.allThere("version 3, installed", s.v3)
	s.Say("its last holder has gone, and so has 1.0")
}

// keepOne makes policy keep only the current revision.
func (s *story) keepOne() {
	s.Configure("policy.d/keep.yaml", "defaults: {keep-revisions: 1}\n")
	s.reload()
}

// extras puts a package into each further index that can be set from outside,
// and returns their hashes by index.
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
	hash := put("retained")
	if err := s.api.Call("Retained.Set", []string{hash}).Err; err != nil {
		s.Fatalf("cannot set the retained index: %v", err)
	}
	s.lull(0, "remove", "org.lull.kept-by-retained")
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
	s.check(strings.Contains(r.Stdout, index), "lull why %s does not say %q:\n%s", hash, index, r.Stdout)
	return r.Stdout
}

func names(m map[string]string) string {
	var b strings.Builder
	for name := range m {
		b.WriteString(", " + name)
	}
	return b.String()
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
