package story

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lull/lull/e2e/rig"
	"github.com/lull/lull/e2e/sample"
)

// stepInstall: version 1 is published, installed and runs.
func (s *story) stepInstall() {
	s.Step(1, "Version 1.0 of Notes is published to a new repository, installed, and started")
	s.lull(0, "repo", "init", s.Repo)
	s.publish(sample.V1)
	s.lull(0, "repo", "add", "local", s.Repo)
	s.lull(0, "install", s.name)
	var revision int
	revision, s.v1 = s.current()
	s.check(revision == 1, "the first revision is %d", revision)
	o, ok := s.api.Package(s.name)
	s.check(ok && o.Str("Version") == sample.V1 && o.Num("Revision") == 1 && o.Str("Hash") == s.v1, "the bus has %v", o)
	sync := s.syncLog(1)
	s.untilFile("the service of version 1 has started", nil, sync, func(text string) bool { return text == "1.0 started\n" })

	s.app = s.launch(sample.V1, 1)
	s.untilFile("it has saved some notes", s.app, s.notes(1), func(text string) bool { return lines(text, sample.V1) >= 3 })
	s.Say("it runs as process %d of user %s and saves to %s", s.app.PID, s.User.Name, s.notes(1))
	s.Until("the agent lists it as running", limit, func() (bool, string) {
		o, _ := s.api.Package(s.name)
		running, _ := o.Props["Running"].Value().(bool)
		return running, fmt.Sprint(o.Props["Running"])
	})
}

// syncLog names the file that the sample's service writes.
func (s *story) syncLog(revision int) string {
	return filepath.Join(s.Store, "data", s.name, fmt.Sprint(revision), "sync.log")
}

// stepPublish: version 2 is prepared behind the running application's back.
func (s *story) stepPublish() {
	s.Step(2, "Version 2.0 is published with security urgency, while 1.0 runs and saves")
	before := lines(read(s.notes(1)), sample.V1)
	published := time.Now()
	s.publish(sample.V2, "--urgency", "security")
	var refresh rig.Object
	s.Until("the refresh to version 2 waits for the application", limit, func() (bool, string) {
		refresh, _ = s.api.Refresh(s.name, sample.V2)
		return refresh.Str("State") == "waiting", refresh.Str("State") + " " + refresh.Str("Step") + " " + refresh.Str("ErrorText")
	})
	s.v2 = refresh.Str("Hash")
	s.Say("the agent noticed by itself, fetched and prepared it; %v after it was published the refresh waits for the application", since(published))
	s.check(refresh.Str("Urgency") == "security", "the urgency is %q", refresh.Str("Urgency"))

	writing := false
	for _, c := range s.api.Changes("Space", "Writing") {
		list, _ := c.Value.([]string)
		writing = writing || slices.Contains(list, s.v2)
	}
	s.check(writing, "the writing index was never seen to hold %s; it held %v", s.v2, s.api.Changes("Space", "Writing"))
	s.check(s.hasPackage(s.v2), "version 2 is not staged")
	s.Say("while it was fetched, the writing index protected it; now it is staged as %.16s…", s.v2)

	revision, hash := s.current()
	s.check(revision == 1 && hash == s.v1, "current is revision %d, %s", revision, hash)
	_, err := os.Stat(filepath.Dir(s.notes(2)))
	s.check(os.IsNotExist(err), "data was copied already: %v %v", err, s.Admin.Run("ls", "-laR", filepath.Dir(filepath.Dir(s.notes(2)))))
	s.untilFile("the application goes on saving", s.app, s.notes(1), func(text string) bool { return lines(text, sample.V1) > before+3 })
	s.check(!s.app.Ended(), "the application has ended")
	s.Say("revision 1 is still current and the application goes on saving: %d notes", lines(read(s.notes(1)), sample.V1))
}

// stepNotice: the user is notified, once.
func (s *story) stepNotice() {
	s.Step(3, "The user who runs it is told, once")
	s.Until("a notice is shown", limit, func() (bool, string) { return len(s.desk.Live()) == 1, s.desk.String() })
	notice := s.desk.Live()[0]
	s.Say("notice: %q: %q, buttons %q", notice.Summary, notice.Body, notice.Labels())
	s.check(strings.Contains(notice.Summary+notice.Body, "Notes"), "it does not name the application: %v", notice)
	s.check(len(notice.Labels()) >= 2, "it has no buttons: %v", notice)
	s.check(len(s.desk.Notices()) == 1, "there were several:\n%s", s.desk)
	if !s.desk.Own {
		s.check(s.desk.Displayed() == 1, "dunst shows %d notices", s.desk.Displayed())
		if s.o.Picture != "" {
			s.desk.Screenshot(s.o.Picture)
			s.Say("a picture of it: %s", s.o.Picture)
		}
	}
	pid := fmt.Sprint(s.app.PID)
	refresh, _ := s.api.Refresh(s.name, sample.V2)
	deadline := time.UnixMicro(int64(refresh.Num("Deadline")))
	left := time.Until(deadline)
	s.check(left > 13*24*time.Hour && left < 14*24*time.Hour, "the deadline is %v", deadline)
	for _, args := range [][]string{{"pending"}, {"status", s.name}} {
		r := s.lull(0, args...)
		for _, want := range []string{s.name, pid, s.User.Name, deadline.Local().Format("2 January")} {
			s.check(strings.Contains(r.Stdout, want), "lull %s: want %q in\n%s", args[0], want, r.Stdout)
		}
	}
	mine := s.User.Lull("pending")
	s.check(mine.Code == 0 && strings.Contains(mine.Stdout, s.name), "the user does not see it: %v", mine)

	busy := s.lull(75, "refresh", s.name)
	for _, want := range []string{"lull: cannot refresh " + s.name, pid, s.User.Name} {
		s.check(strings.Contains(busy.Stderr, want), "the refusal: want %q in\n%s", want, busy.Stderr)
	}
	s.Say("nothing was forced: the refresh goes on waiting")
	s.check(len(s.desk.Live()) == 1, "there are now several notices:\n%s", s.desk)
}

// stepLaunches: policy decides what other launches do meanwhile.
func (s *story) stepLaunches() {
	s.Step(4, "Other launches while the refresh waits: allowed by default, blocked if policy says so")
	r := s.User.Lull("run", s.name, "--once", "from a second launch")
	s.Ran(r)
	s.check(r.Code == 0, "a second launch failed: %v", r)
	s.check(strings.Contains(read(s.notes(1)), "1.0 from a second launch\n"), "it did not write:\n%s", read(s.notes(1)))
	s.Say("policy \"allow\": a second launch of 1.0 worked")

	s.Configure("policy.d/block.yaml", "packages:\n  "+s.name+":\n    refresh-pending-behavior: block\n")
	s.lull(0, "policy", "check")
	s.reload()
	marker := filepath.Join(s.RunDir, "runctl", "lull."+s.name+".inhibited")
	s.untilFile("the marker shows a pending refresh", nil, marker, func(text string) bool { return strings.TrimSpace(text) == "refresh-pending" })
	s.late = s.User.OnTerminal("run", s.name)
	s.Until("the launch reports that it waits", limit, func() (bool, string) {
		s.check(!s.late.Ended(), "it ended: %s", s.late.Log())
		return strings.Contains(s.late.Log(), s.name), s.late.Log()
	})
	s.Say("policy \"block\": a third launch waits and says: %q", strings.TrimSpace(s.late.Log()))
	if s.HasJournal() {
		stop := s.Tick(100 * time.Millisecond) // journald stores lines in its own time, without an event
		s.Until("the journal has it too", limit, func() (bool, string) {
			text := s.Journal()
			return strings.Contains(text, s.name) && strings.Contains(text, "wait"), last(text, 400)
		})
		stop()
	}
	s.check(!s.late.Ended() && !s.app.Ended(), "a process has ended")
}

// reload makes the agent re-read its policy.
func (s *story) reload() {
	s.Helper()
	if err := s.api.Call("Manager.Reload").Err; err != nil {
		s.Fatalf("cannot reload: %v", err)
	}
}

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }
