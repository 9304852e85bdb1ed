package files_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lull/lull/e2e/rig"
)

// TestApt: a package of a vendor's apt repository is installed, a newer version is a
// refresh that waits for the application, it can be reverted and removed, and no
// maintainer script runs.
func TestApt(t *testing.T) {
	s, v := set(t, rig.Options{}), newVendor(t)
	v.deb(notes, "1:1.0", nil)
	v.publish(release{})
	if r := s.MustLull("repo", "add", "--apt", v.line("old"), notes); r.Stdout != "repository notes is known now: deb "+v.url+" stable main\n" {
		t.Errorf("got %v, want output %q", r, "repository notes is known now: deb "+v.url+" stable main\n")
	}
	s.MustLull("repo", "add", "--apt", v.line("old"), notes) // as a configuration manager does
	s.MustLull("install", notes)
	s.runs("1:1.0")
	if _, err := os.Stat(filepath.Join(v.dir, "ran")); err == nil {
		t.Error("a maintainer script has run")
	}
	if r := s.MustLull("refresh", notes); !strings.Contains(r.Stdout, "up to date") {
		t.Errorf("got %v, want %q in the output", r, "up to date")
	}

	v.deb(notes, "1:1.1", nil)
	v.deb(notes, "0.9", nil) // an epoch counts more
	v.publish(release{})
	run := s.User.StartLull(nil, "run", notes, "sleep", "infinity")
	s.Until("it runs", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		running, _ := p.Props["Running"].Value().(bool)
		return running, run.Log()
	})
	s.refused(75, "is running", "refresh", notes)
	run.Stop()
	s.Until("it is refreshed", limit, func() (bool, string) {
		p, _ := s.API.Package(notes)
		return p.Str("Version") == "1:1.1", p.Str("Version")
	})
	s.runs("1:1.1")
	s.MustLull("revert", notes)
	s.runs("1:1.0")
	s.MustLull("gc")

	// What was reverted is not offered again, another version is.
	s.MustLull("refresh", notes)
	s.runs("1:1.0")
	v.deb(notes, "1:1.2", nil)
	v.publish(release{})
	s.StopAgent() // the replica outlives the agent
	s.StartAgent()
	s.MustLull("refresh", notes)
	s.runs("1:1.2")

	s.MustLull("repo", "remove", notes)
	if _, err := os.Stat(filepath.Join(s.Store, "apt", notes)); err == nil {
		t.Error("the replica outlives its repository")
	}
	s.runs("1:1.2")
	s.MustLull("repo", "add", "--apt", v.line("old"), notes)
	s.MustLull("refresh", notes) // the same files, the same package
	s.runs("1:1.2")
	s.MustLull("remove", notes)
	s.clean()
}

// TestAptMerged: several packages of a source become one, and what cannot be followed
// leaves the others alone.
func TestAptMerged(t *testing.T) {
	s, v := set(t, rig.Options{}), newVendor(t)
	v.deb(notes, "1.0", nil)
	v.deb("libnotes", "7", map[string]string{"usr/share/notes/data": "data"})
	v.deb("source", "1", map[string]string{"lull.yaml": "name: source\nversion: \"1\"\n"})
	v.publish(release{})
	s.MustLull("repo", "add", "--name", "vendor", "--apt", v.line("old"), "notes=notes,libnotes", "source")
	s.MustLull("install", notes)
	s.runs("1.0")
	if b, err := os.ReadFile(filepath.Join(s.Store, "current", notes, "usr/share/notes/data")); err != nil || string(b) != "data" {
		t.Errorf("%q, %v; want no error and content %q", b, err, "data")
	}
	s.refused(65, "its name and version are those of its lull.yaml", "install", "source")
	if r := s.MustLull("repo", "list"); !strings.Contains(r.Stdout, "failed") {
		t.Errorf("got %v, want %q in the output", r, "failed")
	}
	v.deb("libnotes", "8", map[string]string{"usr/share/notes/data": "more"}) // the first package names the version
	v.publish(release{})
	s.MustLull("refresh", notes)
	if b, err := os.ReadFile(filepath.Join(s.Store, "current", notes, "usr/share/notes/data")); err != nil || string(b) != "more" {
		t.Errorf("%q, %v; want no error and content %q", b, err, "more")
	}
}

// TestAptRefused: what cannot be believed, or cannot be used, changes nothing and has one
// clear error each.
func TestAptRefused(t *testing.T) {
	s, v := set(t, rig.Options{}), newVendor(t)
	v.deb(notes, "1.0", nil)
	v.publish(release{})
	add := func(line string, packages ...string) []string {
		return append([]string{"repo", "add", "--name", "vendor", "--apt", line}, packages...)
	}
	s.refused(64, "no root of trust is given", add("deb "+v.url+" stable main", notes)...)
	s.refused(65, "a source is always verified", add("deb [trusted=yes] "+v.url+" stable main", notes)...)
	s.refused(1, `repository "vendor" has no package nothing for`, add(v.line("old"), "nothing")...)
	s.refused(69, "it has no dists/unstable/InRelease", add(strings.Replace(v.line("old"), " stable ", " unstable ", 1), notes)...)
	s.refused(1, "it has no list of packages contrib/", add(strings.Replace(v.line("old"), " main", " contrib", 1), notes)...)
	v.publish(release{suite: "oldstable"})
	s.refused(65, "it is of the suite oldstable (no code name), not of stable", add(v.line("old"), notes)...)

	begun := time.Now()
	v.publish(release{date: begun.Add(-2 * time.Hour)})
	first, err := os.ReadFile(filepath.Join(v.dir, "dists/stable/InRelease"))
	if err != nil {
		t.Fatal(err)
	}
	s.MustLull(add(v.line("old"), notes)...)
	s.MustLull("install", notes)

	refresh := func(text string) {
		t.Helper()
		if r := s.Lull("refresh", notes); r.Code == 0 || !strings.Contains(r.Stderr, text) {
			t.Errorf("want %q, got %v", text, r)
		}
		s.runs("1.0")
	}
	inRelease := filepath.Join(v.dir, "dists/stable/InRelease")
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := v.deb(notes, "2.0", nil)
	v.publish(release{keys: []string{"new"}})
	refresh("and only ")
	v.publish(release{date: begun.Add(-90 * time.Minute), valid: time.Hour})
	refresh("it has expired at")
	v.publish(release{date: begun.Add(48 * time.Hour)})
	refresh("in the future")
	v.publish(release{date: begun.Add(-time.Hour)})
	signed, err := os.ReadFile(inRelease)
	if err != nil {
		t.Fatal(err)
	}
	write(inRelease, []byte(strings.Replace(string(signed), "Suite: stable", "Suite: Stable", 1)))
	refresh("is wrong")
	write(inRelease, append([]byte("Suite: stable\n\n"), signed...))
	refresh("it is not signed")
	write(inRelease, append(slices.Clone(signed), "Suite: stable\n"...))
	refresh("something follows its signature")
	write(inRelease, signed)
	v.set(func() { v.page = true })
	refresh("a web page came back instead")
	v.set(func() { v.page = false })

	index := filepath.Join(v.dir, "dists/stable/main/binary-"+debArch(t), "Packages.gz")
	good, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	write(index, good[:len(good)-1])
	refresh("Packages.gz is not the file that InRelease names")
	write(index, good)
	// The release was accepted: an older one is not any more.
	write(inRelease, first)
	refresh("the repository was rolled back")
	write(inRelease, signed)
	deb, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(deb)
	for i := range 20 { // in the compressed files
		bad[len(bad)-120+i] ^= 1
	}
	write(file, bad)
	refresh("is not the file that its list of packages names")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	refresh("lists it and does not have it")
	write(file, bad) // now with its hash in the list
	v.publish(release{})
	refresh("cannot convert notes_2.0.deb")
	refresh("cannot convert notes_2.0.deb") // it is not tried again, and said
	write(file, deb)

	// A key is rotated: the release is signed by both.
	v.publish(release{keys: []string{"new", "old"}})
	s.MustLull("refresh", notes)
	s.runs("2.0")
	s.clean()
}

// TestAptResumed: a transfer that is cut goes on where it ended, also after a restart of
// the agent.
func TestAptResumed(t *testing.T) {
	s, v := set(t, rig.Options{}), newVendor(t)
	noise := make([]byte, 1<<20)
	f, err := os.Open("/dev/urandom")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(noise); err != nil {
		t.Fatal(err)
	}
	v.deb(notes, "1.0", map[string]string{"usr/share/noise": string(noise)})
	v.publish(release{})
	s.MustLull("repo", "add", "--apt", v.line("old"), notes)
	v.set(func() { v.cut = 50_000 })
	if r := s.Lull("install", notes); r.Code != 69 {
		t.Fatalf("got %v, want exit status 69", r)
	}
	s.StopAgent()
	s.StartAgent()
	v.set(func() { v.cut, v.ranges = 0, nil })
	s.MustLull("install", notes)
	s.runs("1.0")
	if v.set(func() {}); len(v.ranges) != 1 || !strings.HasPrefix(v.ranges[0], "bytes=") || v.ranges[0] == "bytes=0-" {
		t.Errorf("the second transfer: got the ranges %q, want one that does not begin at 0", v.ranges)
	}
}

// TestAptKilled: an agent that is killed between two steps of a conversion, or has a full
// disk then, goes on after it.
func TestAptKilled(t *testing.T) {
	for _, point := range []string{"local.convert", "local.publish", "local.published"} {
		for _, fault := range []string{"kill", "enospc"} {
			t.Run(point+"/"+fault, func(t *testing.T) {
				s, v := set(t, rig.Options{}, "LULL_FAULT="+point+":"+fault), newVendor(t)
				v.deb(notes, "1.0", nil)
				v.publish(release{})
				s.MustLull("repo", "add", "--apt", v.line("old"), notes)
				r := s.Lull("install", notes)
				if fault == "kill" {
					<-s.Agent().Done()
					s.StartAgent()
				} else if r.Code != 73 && point != "local.published" { // it is offered then
					t.Errorf("install with the fault %s at %s: got %v; want exit status 73", fault, point, r)
				}
				s.clean()
				s.MustLull("install", notes)
				s.runs("1.0")
				v.deb(notes, "2.0", nil)
				v.publish(release{})
				s.MustLull("refresh", notes)
				s.runs("2.0")
				if left, err := filepath.Glob(filepath.Join(s.Store, "apt", notes, "partial", "*")); err != nil || len(left) > 0 {
					t.Errorf("left %v, %v", left, err)
				}
			})
		}
	}
}

// TestAptStalled: a source that does not answer delays no other repository, and can be
// removed meanwhile.
func TestAptStalled(t *testing.T) {
	s, v := set(t, rig.Options{}), newVendor(t)
	v.deb(notes, "1.0", nil)
	v.publish(release{})
	v.set(func() { v.stall = true })
	s.MustLull("repo", "add", "--name", "vendor", "--apt", v.line("old"), notes)
	install := s.Admin.StartLull(nil, "install", notes)
	<-v.stalled
	file := s.archive("other-1.0.tar.gz", "#!/bin/sh\necho other\n", nil)
	s.MustLull("install", "--name", "other", file)
	s.MustLull("repo", "remove", "vendor")
	if code, err := install.Wait(t.Context(), limit); err != nil || code == 0 {
		t.Errorf("install while its repository is removed: got exit status %d, %v; want a failure in time: %s", code, err, install.Log())
	}
	if _, err := os.Stat(filepath.Join(s.Store, "apt", "vendor")); err == nil {
		t.Error("the replica outlives its repository")
	}
}

// TestAptSources: a source is named by a .sources file with its key, and its server has
// Release.gpg instead of InRelease.
func TestAptSources(t *testing.T) {
	s, v := set(t, rig.Options{}), newVendor(t)
	v.deb(notes, "1.0", nil)
	v.publish(release{detached: true})
	key, err := os.ReadFile(v.key("old"))
	if err != nil {
		t.Fatal(err)
	}
	indented := strings.ReplaceAll(strings.ReplaceAll(" "+strings.TrimSpace(string(key)), "\n", "\n "), "\n \n", "\n .\n")
	sources := s.Path("vendor.sources")
	text := "# the vendor's\nTypes: deb\nURIs: " + v.url + "\nSuites: stable\nComponents: main\nSigned-By:\n" + indented + "\n"
	if err := os.WriteFile(sources, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.MustLull("repo", "add", "--apt", sources, notes)
	s.MustLull("install", notes)
	s.runs("1.0")
	v.deb(notes, "1.1", nil)
	v.publish(release{detached: true})
	s.MustLull("refresh", notes)
	s.runs("1.1")

	v.deb(notes, "1.2", nil)
	v.publish(release{detached: true, keys: []string{"new"}})
	s.refused(65, "is trusted", "refresh", notes)
	if err := os.Remove(filepath.Join(v.dir, "dists/stable/Release.gpg")); err != nil {
		t.Fatal(err)
	}
	s.refused(65, "it is not signed", "refresh", notes)
	if err := os.WriteFile(sources, []byte(strings.Replace(text, "Types: deb", "Types: deb-src", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	s.refused(65, "no enabled one of type deb", "repo", "add", "--name", "other", "--apt", sources, notes)
	s.runs("1.1")
}
