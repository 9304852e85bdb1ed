package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSystemPackages: packages of the system that are not resident are named by the doctor and
// fetched as soon as a repository can be read. Afterwards they are found by their names when
// there is no repository any more.
func TestSystemPackages(t *testing.T) {
	const base, cached = "org.lull.base", "org.lull.cached"
	s := set(t, "")
	publish := func(name string) string {
		return s.publish(app(name, "1", ""), map[string]string{"app": "echo this is " + name})
	}
	hashes := []string{publish(base), publish(cached)}
	unknown := strings.Repeat("1", 64)
	s.Begin()
	s.StopAgent()
	away := s.Repo + ".away"
	if err := os.Rename(s.Repo, away); err != nil {
		t.Fatal(err)
	}
	s.Configure("system.yaml", fmt.Sprintf("base: [%s]\ncache: [%s, %s]\n", hashes[0], hashes[1], unknown))
	s.StartAgent()
	doctor := func(want ...string) {
		t.Helper()
		s.Until("the doctor finds "+strings.Join(want, ", "), limit, func() (bool, string) {
			text := strings.Join(strings.Fields(s.Lull("doctor").Text()), " ")
			for _, w := range want {
				if !strings.Contains(text, w) {
					return false, text
				}
			}
			return true, text
		})
	}
	doctor("3 of 3 are missing: base "+hashes[0][:8], "cannot fetch package", "lull policy reload tries now")
	if r := s.Lull("run", "--ephemeral", cached); r.Code == 0 {
		t.Errorf("a package that is not there runs: %v", r)
	}

	if err := os.Rename(away, s.Repo); err != nil {
		t.Fatal(err)
	}
	s.MustLull("policy", "reload")
	doctor("1 of 3 are missing: cache "+unknown[:8], "cannot fetch package "+unknown[:8])
	s.Configure("system.yaml", fmt.Sprintf("base: [%s]\ncache: [%s]\n", hashes[0], hashes[1]))
	s.MustLull("policy", "reload")
	doctor("2, all present")
	s.MustLull("gc")
	for _, h := range hashes {
		if _, err := os.Stat(filepath.Join(s.Store, "packages", h)); err != nil {
			t.Errorf("it was not fetched or is not kept: %v", err)
		}
	}

	s.MustLull("repo", "remove", "local")
	for _, name := range []string{base, cached} {
		if r := s.Lull("run", "--ephemeral", name); r.Code != 0 || r.Stdout != "this is "+name+"\n" {
			t.Errorf("without a repository it does not run: %v", r)
		}
	}
	if r := s.Lull("run", "--ephemeral", "org.lull.none"); r.Code == 0 {
		t.Errorf("a package of no set runs: %v", r)
	}

	// A repository that is added brings what is missing.
	late := publish("org.lull.late")
	s.Configure("system.yaml", fmt.Sprintf("base: [%s]\ncache: [%s, %s]\n", hashes[0], hashes[1], late))
	s.MustLull("policy", "reload")
	doctor("1 of 3 are missing: cache " + late[:8])
	s.MustLull("repo", "add", "again", s.Repo)
	doctor("3, all present")
}
