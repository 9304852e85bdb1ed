// Package story runs the main job of lull from end to end: a running
// application is refreshed safely, on real parts. It goes step by step, and
// every step is checked; it is both a test and the demonstration.
//
// A story uses only public means: the command line, the bus,
// systemd-inhibit, the notification server's own tools, and files. It belongs
// to one goroutine.
package story

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// limit is how long anything may take that happens by itself.
const limit = 30 * time.Second

// Narrator receives the steps.
type Narrator interface {
	// Step begins one of the story's steps.
	Step(n int, title string)
	// Say is one sentence about the last event.
	Say(format string, args ...any)
	// Ran is a command and what it printed.
	Ran(r rig.Result)
}

// Options are the circumstances of a story.
type Options struct {
	Rootless   bool   // the agent is `lulld --user`
	System     bool   // everything is on the system bus, in a container
	OwnDesktop bool   // notices go to the desktop of the user who runs the story
	Picture    string // where a screenshot of the notice is put, or ""
}

// story is what the steps share.
type story struct {
	*rig.World
	Narrator
	o    Options
	desk *rig.Desktop
	api  *rig.API

	name string    // the instance that the story is about
	app  *rig.Proc // it, running
	late *rig.Proc // a launch that has to wait for the refresh
	v1   string    // package hash of version 1
	v2   string
	v3   string

	exited time.Time // when app had ended
}

// Tell runs the whole story.
func Tell(tb rig.TB, n Narrator, o Options) {
	tb.Helper()
	s := &story{Narrator: n, o: o, name: sample.Name}
	s.World = rig.New(tb, rig.Options{Rootless: o.Rootless, System: o.System, Logind: true})
	s.prepare()
	s.stepInstall()
	s.stepPublish()
	s.stepNotice()
	s.stepLaunches()
	s.stepExit()
	s.stepRevert()
	s.stepCollect()
	s.stepBus()
}

// check ends the story unless ok.
func (s *story) check(ok bool, format string, args ...any) {
	s.Helper()
	if !ok {
		s.Fatalf(format, args...)
	}
}

// lull runs the command line as the agent's owner; it must exit with code.
func (s *story) lull(code int, args ...string) rig.Result {
	s.Helper()
	r := s.World.Lull(args...)
	r.Args = append([]string{"lull"}, args...)
	s.Ran(r)
	s.check(r.Code == code, "exit status %d expected:\n%v", code, r)
	return r
}

// prepare sets the stage.
func (s *story) prepare() {
	s.Step(0, "The stage: a scratch folder, a bus of its own, a real logind, a session with a notification server")
	s.Configure("policy.yaml", "schedule: {check: 6h}\ngc: {after-refresh: false, watermark: 0, reserve: 1MiB}\n")
	if s.o.OwnDesktop {
		s.desk = s.OwnDesktop()
		s.Say("notices go to your desktop")
	} else {
		s.desk = s.StartDesktop()
		s.Say("no desktop here: Xvfb and dunst were started for user %s", s.User.Name)
	}
	s.api = s.Bus.Watch()
	s.StartAgent()
	s.StartHelper()
	tracker := fmt.Sprint(s.api.Property("", "Manager.Tracker"))
	events := fmt.Sprint(s.api.Property("", "Manager.TrackerEvents"))
	s.check(strings.Contains(events, "inotify"), "exits are noticed by %s, not by events", events)
	s.Say("lulld serves below %s; it tracks processes by the tracker %q and hears of exits by %s", s.Dir, tracker, events)
}

// publish writes one version of the sample and publishes it.
func (s *story) publish(version string, flags ...string) {
	s.Helper()
	dir := s.Path("notes-" + version)
	sample.Write(s.World, dir, version)
	if version == sample.V2 {
		sample.Ballast(s.World, dir, 48<<20) // so that there is something to fetch
	}
	s.lull(0, append([]string{"publish", "--repo", s.Repo}, append(flags, dir)...)...)
}

// run launches the application as its user; it must be a run of version.
func (s *story) launch(version string, revision int) *rig.Proc {
	s.Helper()
	p := s.User.StartLull(nil, "run", s.name)
	want := fmt.Sprintf("%s note", version)
	path := s.notes(revision)
	s.untilFile("version "+version+" writes notes", p, path, func(text string) bool { return strings.Contains(text, want) })
	return p
}

// notes names the file that the application writes.
func (s *story) notes(revision int) string {
	data := ".local/share/lull"
	if s.Rootless {
		data += "-user"
	}
	return filepath.Join(s.User.Home, data, s.name, strconv.Itoa(revision), "notes.txt")
}

// lines counts the lines of a text that begin with a version.
func lines(text, version string) int { return strings.Count("\n"+text, "\n"+version+" ") }

// read returns a file's content, or "".
func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// untilFile waits for the content of a file, which p may still have to make.
func (s *story) untilFile(what string, p *rig.Proc, path string, cond func(string) bool) {
	s.Helper()
	s.UntilFile(what, limit, path, func(text string) (bool, string) {
		if p != nil && p.Ended() && !cond(text) {
			s.Fatalf("it ended before %s:\n%s", what, p.Log())
		}
		return cond(text), path + " has " + strconv.Quote(last(text, 200))
	})
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

// current reads which revision and which package an instance's link names.
func (s *story) current() (revision int, hash string) {
	s.Helper()
	link := filepath.Join(s.Store, "current", s.name)
	first, err := os.Readlink(link)
	if err != nil {
		s.Fatalf("%v", err)
	}
	second, err := os.Readlink(filepath.Join(filepath.Dir(link), first))
	if err != nil {
		s.Fatalf("%v", err)
	}
	revision, err = strconv.Atoi(filepath.Base(first))
	s.check(err == nil, "%s leads to %s, which is no revision", link, first)
	return revision, filepath.Base(second)
}

// blobs lists the content of a package by its manifest.
func (s *story) blobs(hash string) map[string]bool {
	s.Helper()
	b, err := os.ReadFile(filepath.Join(s.Store, "packages", hash, ".lull/meta.json"))
	if err != nil {
		s.Fatalf("%v", err)
	}
	var m struct {
		Entries []struct {
			Blob string
			Exec bool
		}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		s.Fatalf("%v", err)
	}
	set := map[string]bool{hash: true}
	for _, e := range m.Entries {
		if e.Blob != "" && e.Exec {
			set[e.Blob+"x"] = true
		} else if e.Blob != "" {
			set[e.Blob] = true
		}
	}
	return set
}

// hasBlob reports whether the store has a blob.
func (s *story) hasBlob(name string) bool {
	_, err := os.Stat(filepath.Join(s.Store, "blobs", name[:2], name))
	return err == nil
}

// hasPackage reports whether the store has a package's tree.
func (s *story) hasPackage(hash string) bool {
	_, err := os.Stat(filepath.Join(s.Store, "packages", hash))
	return err == nil
}

// end asks a running application to end, and waits until it has.
func (s *story) end(p *rig.Proc) time.Time {
	s.Helper()
	p.Signal(syscall.SIGTERM)
	if _, err := p.Wait(s.Context(), limit); err != nil {
		s.Fatalf("%v", err)
	}
	return time.Now()
}
