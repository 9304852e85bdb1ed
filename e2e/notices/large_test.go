package notices_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// large: one of two users is notified before a large download that no user has requested, and
// nothing is fetched until the user answers. Tomorrow puts it off by a hold of the user.
func (s *scene) large(t *testing.T, bob *scene) {
	const big = "org.lull.big"
	s.desk.CloseAll()
	bob.desk.CloseAll()
	s.Policy("network: {download-notice: 1MB}\n")
	publish := func(version string, content []byte) {
		t.Helper()
		dir := s.Tree("big"+version, map[string]string{
			"lull.yaml": "name: " + big + "\nversion: \"" + version + "\"\ntitle: Big\nsummary: is large\napps: [{name: app, command: app}]\n",
			"app":       "#!/bin/sh\n",
		})
		if err := os.WriteFile(filepath.Join(dir, "content"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		s.MustLull("publish", "--deltas-from", "0", "--repo", s.Repo, dir)
	}
	random := func() []byte {
		b := make([]byte, 1_240_000)
		_, _ = rand.Read(b) // never fails
		return b
	}
	// notified waits for the notice of a version, of which nothing is fetched yet.
	notified := func(version string) {
		t.Helper()
		publish(version, random()) // the agent finds it by itself
		n := bob.untilShown(1, "Große Aktualisierung von Big")
		for _, want := range []string{"Das Herunterladen von 1,2 MB beginnt in einer Minute", "getaktet"} {
			if !strings.Contains(n.Body, want) {
				t.Errorf("no %q in %q", want, n.Body)
			}
		}
		if labels := strings.Join(n.Labels(), ", "); !strings.HasPrefix(labels, "Jetzt herunterladen, Morgen") {
			t.Errorf("%s, want the buttons Jetzt herunterladen and Morgen", labels)
		}
		if live := s.desk.Live(); len(live) > 0 {
			t.Errorf("the other user is notified, too: %v", live)
		}
		if o, _ := s.API.Refresh(big, version); o.Str("State") != "waiting" || o.Str("Step") != "fetch" || o.Num("BytesToFetch") < 1_240_000 || o.Num("BytesDone") != 0 {
			t.Errorf("it is %s at %s, with %d bytes to fetch and %d fetched; want it waiting at fetch with nothing fetched",
				o.Str("State"), o.Str("Step"), o.Num("BytesToFetch"), o.Num("BytesDone"))
		}
	}
	current := func(want string) {
		t.Helper()
		s.Until("version "+want+" is current", limit, func() (bool, string) {
			o, _ := s.API.Package(big)
			return o.Str("Version") == want, o.Str("Version")
		})
		bob.untilShown(0, "") // it is withdrawn when it is done
	}
	publish("1", nil)
	s.MustLull("install", big)

	notified("2")
	for _, words := range [][]string{{"status"}, {"status", big}, {"pending"}, {"info", big}} {
		for _, who := range []*scene{s, bob} {
			out := who.MustLull(words...).Stdout
			for _, want := range []string{"its download of 1.2 MB", "lull refresh " + big + " begins it now"} {
				if !strings.Contains(out, want) {
					t.Errorf("lull %s: got %s, want %q in it", strings.Join(words, " "), out, want)
				}
			}
		}
	}
	s.Agent().Crash() // the notice is not repeated by the next agent
	s.StartAgent()
	bob.untilShown(1, "Große Aktualisierung von Big")
	bob.desk.Press("Jetzt herunterladen")
	current("2")

	notified("3")
	bob.desk.Press("Morgen")
	s.Until("the user holds it", limit, func() (bool, string) {
		o, _ := s.API.Package(big)
		return o.Str("HeldBy") == bob.User.Name, s.Lull("status", big).Stdout
	})
	bob.untilShown(0, "")
	if o, _ := s.API.Refresh(big, "3"); o.Str("State") != "waiting" || o.Str("Step") != "fetch" || o.Num("BytesDone") != 0 {
		t.Errorf("while it is held it is %s at %s, with %d bytes fetched; want it waiting at fetch with none", o.Str("State"), o.Str("Step"), o.Num("BytesDone"))
	}
	s.MustLull("unhold", big)
	s.Until("it begins when its minute is over, or the user requests it", limit, func() (bool, string) {
		r := s.Lull("refresh", big)
		return r.Code == 0, r.Stderr
	})
	current("3")
	s.Policy("")
}
