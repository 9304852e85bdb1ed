package notices_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// failing: one of two users gets one notice of a repository that has failed for longer than
// policy lets it, with the cause. It is shown once, whether the agent is restarted or not, and
// goes away when the repository works again.
func (s *scene) failing(t *testing.T, bob *scene) {
	s.desk.CloseAll()
	bob.desk.CloseAll()
	for _, x := range []*scene{s, bob} { // with all of the text in the user's language
		x.helper.Stop()
		x.User.Env = append(x.User.Env, "LC_ALL=de_DE.UTF-8")
		x.helper = x.StartHelper()
	}
	// notified waits until one of them is, and returns the user and the notice.
	notified := func(summary string) (told *scene, n rig.Notice) {
		t.Helper()
		s.Until("one user is notified: "+summary, limit, func() (bool, string) {
			for _, x := range []*scene{s, bob} {
				if live := x.desk.Live(); len(live) == 1 && live[0].Summary == summary {
					told, n = x, live[0]
				}
			}
			return told != nil && len(s.desk.Live())+len(bob.desk.Live()) == 1, s.desk.String() + bob.desk.String()
		})
		return told, n
	}
	away := s.Path("away")
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	fail := func() {
		t.Helper()
		if r := s.Lull("refresh", name); r.Code == 0 {
			t.Fatalf("a refresh without the repository succeeds: %v", r)
		}
	}
	rename(s.Repo, away)
	fail()
	if live := append(s.desk.Live(), bob.desk.Live()...); len(live) > 0 {
		t.Errorf("a failure that has just begun is shown: got the notices %v, want none", live)
	}
	s.age(8 * 24 * time.Hour)
	fail()
	told, n := notified("Keine Aktualisierungen aus local")
	for _, want := range []string{"Die Paketquelle local ist seit dem ", "Der Server ist nicht erreichbar", "Ursache: Paketquelle \"local\" unter ", "Lesen der root-Metadaten ist nicht möglich", s.Repo, "Datei oder Verzeichnis nicht gefunden"} {
		if !strings.Contains(n.Body, want) {
			t.Errorf("no %q in %q", want, n.Body)
		}
	}
	told.desk.CloseAll()
	fail()
	s.age(0)
	fail()
	if live := append(s.desk.Live(), bob.desk.Live()...); len(live) > 0 {
		t.Errorf("the failure is shown a second time: got the notices %v, want none", live)
	}

	rename(away, s.Repo)
	s.MustLull("refresh", name)
	rename(s.Repo, away)
	fail() // a failure of its own
	s.age(8 * 24 * time.Hour)
	fail()
	s.Until("one user is notified of the next one", limit, func() (bool, string) {
		return len(s.desk.Live())+len(bob.desk.Live()) == 1, s.desk.String() + bob.desk.String()
	})
	rename(away, s.Repo)
	s.MustLull("refresh", name)
	s.untilShown(0, "") // no longer true
	bob.untilShown(0, "")

	// The same of an application: its new version cannot be fetched.
	const lost = "org.lull.lost"
	s.publishLost(s.Repo, lost, "1")
	s.MustLull("install", lost)
	rename(s.Repo, away) // or the agent fetches it at once
	s.publishLost(away, lost, "2")
	rename(away+"/blobs", s.Path("blobs"))
	rename(away, s.Repo)
	failed := func() {
		t.Helper()
		if r := s.Lull("refresh", lost); r.Code == 0 {
			t.Fatalf("a refresh without content succeeds: %v", r)
		}
	}
	failed()
	s.age(8 * 24 * time.Hour)
	failed()
	_, n = notified("Lost bekommt keine Aktualisierungen")
	if want := "Ursache: " + lost + ": Aktualisieren ist nicht möglich: "; !strings.Contains(n.Body, want) {
		t.Errorf("no %q in %q", want, n.Body)
	}
	rename(s.Path("blobs"), s.Repo+"/blobs")
	s.MustLull("refresh", lost)
	s.untilShown(0, "")
	bob.untilShown(0, "")
}

// publishLost publishes a version of a small package, with the keys of the repository.
func (s *scene) publishLost(repo, name, version string) {
	s.Helper()
	dir := s.Tree("lost"+version, map[string]string{
		"lull.yaml": "name: " + name + "\nversion: \"" + version + "\"\ntitle: Lost\nsummary: is lost\napps: [{name: app, command: app}]\n",
		"app":       "#!/bin/sh\n# " + version + "\n",
	})
	s.MustLull("publish", "--deltas-from", "0", "--keys", s.Repo+".keys", "--repo", repo, dir)
}

// age restarts the agent after a time in which each failure went on.
func (s *scene) age(by time.Duration) {
	s.Helper()
	s.Agent().Crash()
	path := filepath.Join(s.Store, "failures.json")
	b, err := os.ReadFile(path)
	var list []map[string]any
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	for _, f := range list {
		var since time.Time
		if since, err = time.Parse(time.RFC3339, f["since"].(string)); err == nil {
			f["since"] = since.Add(-by)
		}
	}
	if err == nil {
		b, err = json.Marshal(list)
	}
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	s.NoError(err)
	s.StartAgent()
}
